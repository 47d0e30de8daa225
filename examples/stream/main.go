// Command stream sends server-sent events: the time of the region that it runs in, once a second, until
// the client leaves or ten have been sent. Try it with `curl -N`.
package main

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/perigee-edge/perigee/guest"
)

func init() { guest.Serve(http.HandlerFunc(events)) }

func main() {} // init does it: main does not run in a function

// every is the time between two events.
var every = time.Second

func events(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.FormValue("n"))
	if err != nil || n < 1 || n > 20 {
		n = 10
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	for i := range n {
		if i > 0 {
			time.Sleep(every) // takes no processor, and costs no fuel
		}
		fmt.Fprintf(w, "id: %d\nevent: time\ndata: %s\n\n", i, time.Now().UTC().Format(time.TimeOnly))
		if http.NewResponseController(w).Flush() != nil || r.Context().Err() != nil {
			return
		}
	}
}
