// Command hello greets, and says where it ran. It is the smallest Perigee function: deploy it with
// `perigee deploy`, or try it without a gateway with `go run .`.
package main

import (
	"cmp"
	"fmt"
	"net/http"
	"os"

	"github.com/perigee-edge/perigee/guest"
)

func init() {
	guest.Serve(http.HandlerFunc(hello))
}

func main() {} // init does it: main does not run in a function

// hello answers with the greeting of the environment, the path, and the region the gateway names.
func hello(w http.ResponseWriter, r *http.Request) {
	greeting := cmp.Or(os.Getenv("GREETING"), "hello")
	region := cmp.Or(r.Header.Get("Perigee-Region"), "nowhere in particular")
	fmt.Fprintf(w, "%s from %s at %s\n", greeting, region, r.URL.Path)
}
