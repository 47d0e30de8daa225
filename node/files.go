package node

import (
	"io/fs"
	"net/http"
	"path"
	"strings"
)

// serveFiles serves the static files of a bundle. Directories are not listed: one without an
// index.html is not found.
func serveFiles(files fs.FS) http.Handler {
	server := http.FileServerFS(files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.Trim(path.Clean("/"+r.URL.Path), "/")
		if name == "" {
			name = "."
		}
		if info, err := fs.Stat(files, name); err == nil && info.IsDir() {
			if _, err := fs.Stat(files, path.Join(name, "index.html")); err != nil {
				http.NotFound(w, r)
				return
			}
		}
		server.ServeHTTP(w, r)
	})
}
