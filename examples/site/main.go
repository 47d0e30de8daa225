// Command site is a static site: the files in public/ are what its handler stands before, and the handler
// adds what a file server does not know.
package main

import (
	"net/http"
	"path"

	"github.com/perigee-edge/perigee/guest"
)

func init() { guest.Middleware(headers) }

func main() {} // init does it: main does not run in a function

// headers sets how long browsers keep a file, and what pages may do. The files themselves go past the
// module.
func headers(files http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'self'")
		switch path.Ext(r.URL.Path) {
		case "", ".html":
			h.Set("Cache-Control", "no-cache")
		default:
			h.Set("Cache-Control", "public, max-age=86400")
		}
		files.ServeHTTP(w, r)
	})
}
