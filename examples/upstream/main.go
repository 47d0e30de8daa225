// Command upstream is a JSON API that calls another one: GET /OWNER/REPOSITORY tells what GitHub knows of
// a repository, in fewer words. It may reach that origin only because its manifest lists it.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/perigee-edge/perigee/guest"
	_ "github.com/perigee-edge/perigee/guest/outbound" // http.DefaultClient works
)

func init() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{owner}/{repository}", repository)
	guest.WarmUp(func() { // encoding/json learns the types before the first request
		_, _ = summary([]byte(`{"full_name": "a/b", "stargazers_count": 1}`))
	})
	guest.Serve(mux)
}

func main() {} // init does it: main does not run in a function

// found is what the upstream says, as far as it is wanted.
type found struct {
	Name     string `json:"full_name"`
	About    string `json:"description"`
	Stars    int    `json:"stargazers_count"`
	Language string `json:"language"`
}

func repository(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second)
	defer cancel()
	body, err := ask(ctx, r.PathValue("owner"), r.PathValue("repository"))
	if err == nil {
		body, err = summary(body)
	}
	if err != nil {
		log.Print(err) // for the author: clients need not know where this function asks
		status := http.StatusBadGateway
		if errors.Is(err, errUnknown) {
			status = http.StatusNotFound
		}
		http.Error(w, http.StatusText(status), status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}

var errUnknown = errors.New("no such repository")

// ask returns the upstream's answer.
func ask(ctx context.Context, owner, name string) (json.RawMessage, error) {
	u := cmp.Or(os.Getenv("API"), "https://api.github.com") + "/repos/" + url.PathEscape(owner) + "/" + url.PathEscape(name)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "perigee-example")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, errUnknown
	default:
		return nil, fmt.Errorf("ask %s: %s", u, resp.Status)
	}
	var body json.RawMessage
	err = json.NewDecoder(http.MaxBytesReader(nil, resp.Body, 1<<20)).Decode(&body)
	return body, err
}

// summary keeps what is wanted.
func summary(body []byte) ([]byte, error) {
	var f found
	if err := json.Unmarshal(body, &f); err != nil {
		return nil, err
	}
	return json.Marshal(f)
}
