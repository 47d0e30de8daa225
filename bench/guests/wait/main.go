// Wait is a function that answers after fifty milliseconds, as one that asks an upstream does.
package main

import (
	"fmt"
	"net/http"
	"time"

	"github.com/perigee-edge/perigee/guest"
)

func init() {
	guest.Serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(50 * time.Millisecond)
		fmt.Fprintln(w, "done")
	}))
}

func main() {}
