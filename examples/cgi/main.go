// Command cgi is a Perigee function that knows nothing of Perigee: an ordinary program of Go's
// net/http/cgi, as any web server of the last thirty years could run it. Each request starts it anew.
// Try it without a gateway:
//
//	REQUEST_METHOD=GET SERVER_PROTOCOL=HTTP/1.1 REQUEST_URI=/ go run .
package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cgi"
	"os"
)

func main() {
	http.HandleFunc("GET /", hello)
	http.HandleFunc("POST /number", number)
	if err := cgi.Serve(nil); err != nil {
		log.Fatal(err)
	}
}

// hello answers with the greeting of the environment, the client's address and the path.
func hello(w http.ResponseWriter, r *http.Request) {
	greeting := cmp.Or(os.Getenv("GREETING"), "hello")
	fmt.Fprintf(w, "%s, %s, from %s at %s\n", greeting, os.Getenv("REMOTE_ADDR"), os.Getenv("SERVER_SOFTWARE"), r.URL.Path)
}

// number sends the body back, each line with its number, as the lines come.
func number(w http.ResponseWriter, r *http.Request) {
	in := bufio.NewReader(r.Body)
	for n := 1; ; n++ {
		line, err := in.ReadString('\n')
		if line != "" {
			fmt.Fprintf(w, "%4d  %s", n, line)
			w.(http.Flusher).Flush()
		}
		if err != nil {
			if err != io.EOF {
				log.Print(err)
			}
			return
		}
	}
}
