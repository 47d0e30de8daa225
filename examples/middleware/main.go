// Command middleware protects an origin from the edge: requests without a known key are answered here, the
// others are passed on without it. Bodies stream past the module in both directions.
package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"os"
	"strings"

	"github.com/perigee-edge/perigee/guest"
)

func init() { guest.Middleware(protect) }

func main() {} // init does it: main does not run in a function

// protect asks for the header X-Api-Key. KEYS has the SHA-256 of each key that is good, in hexadecimal,
// since the manifest is no secret.
func protect(origin http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !known(r.Header.Get("X-Api-Key")) {
			w.Header().Set("WWW-Authenticate", "ApiKey")
			http.Error(w, "Send your key in the header X-Api-Key.", http.StatusUnauthorized)
			return
		}
		r.Header.Del("X-Api-Key")
		w.Header().Set("X-Checked-In", r.Header.Get("Perigee-Region"))
		origin.ServeHTTP(w, r)
	})
}

func known(key string) bool {
	sum := sha256.Sum256([]byte(key))
	got, found := hex.EncodeToString(sum[:]), 0
	for good := range strings.FieldsSeq(os.Getenv("KEYS")) {
		found |= subtle.ConstantTimeCompare([]byte(got), []byte(good))
	}
	return found == 1
}
