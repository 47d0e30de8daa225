// Command wasiguest uses what WASI gives to an ordinary Go program, and prints what it found. The first
// argument says how it ends.
package main

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"
)

func main() {
	fmt.Println(os.Args[1:], os.Getenv("A"), os.Getenv("NONE"))
	files()
	began := time.Now()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { time.Sleep(20 * time.Millisecond) })
	}
	wg.Wait()
	if d := time.Since(began); d < 20*time.Millisecond || d > 10*time.Second || began.Year() < 2026 {
		fmt.Println("slept", d, "in", began)
	}
	b := make([]byte, 100_000)
	_, _ = rand.Read(b)
	if b[0] == b[1] && b[1] == b[2] && b[2] == b[99_999] {
		fmt.Println("random", b[:3])
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		fmt.Printf("> %s\n", lines.Text())
	}
	fmt.Fprintln(os.Stderr, "to the log", lines.Err())
	switch os.Args[1] {
	case "panic":
		panic("as asked")
	case "exit":
		os.Exit(7)
	}
}

func files() {
	_ = fs.WalkDir(os.DirFS("/"), ".", func(path string, d fs.DirEntry, err error) error {
		fmt.Println(path, d.IsDir(), err)
		return nil
	})
	b, err := os.ReadFile("/sub/b.txt")
	fmt.Printf("%s %v\n", b, err)
	f, err := os.Open("a.txt")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	part := make([]byte, 3)
	_, err = f.ReadAt(part, 4)
	end, seekErr := f.Seek(-1, 2)
	info, statErr := f.Stat()
	fmt.Printf("%s %v %d %v %d %v %v\n", part, err, end, seekErr, info.Size(), info.ModTime().UTC(), statErr)
	for _, err := range []error{
		os.WriteFile("/new", nil, 0o600), os.Mkdir("/dir", 0o700), os.Remove("/a.txt"), os.Rename("/a.txt", "/b.txt"),
		os.Truncate("/a.txt", 0), os.Chtimes("/a.txt", time.Now(), time.Now()), os.Symlink("a.txt", "/link"),
	} {
		fmt.Print(errors.Is(err, syscall.EROFS), " ")
	}
	_, err = os.Stat("/none")
	root, rootErr := os.OpenRoot("/sub")
	if rootErr != nil {
		fmt.Println(rootErr)
		return
	}
	_, escapes := root.Open("../a.txt")
	fmt.Println(errors.Is(err, fs.ErrNotExist), escapes)
}
