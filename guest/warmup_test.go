package guest

import (
	"fmt"
	"io"
	"net/http"
	"reflect"
	"testing"
)

func TestWarmUp(t *testing.T) {
	var order []int
	WarmUp(func() { order = append(order, 1) })
	WarmUp(func() { order = append(order, 2) })
	runHooks()
	runHooks() // once only
	if !reflect.DeepEqual(order, []int{1, 2}) {
		t.Errorf("hooks ran as %v", order)
	}
	rehearse() // panics if the package's own path does
	if Rand().Uint64() == Rand().Uint64() {
		t.Error("two generators are alike")
	}
}

func TestTrailers(t *testing.T) {
	out := serve(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "x-sum, X-None")
		w.Header().Set(http.TrailerPrefix+"X-Early", "e")
		w.Header().Set("X-Plain", "p")
		fmt.Fprint(w, "body")
		w.(http.Flusher).Flush()
		w.Header().Set("X-Sum", "4")
		w.Header().Set(http.TrailerPrefix+"x-late", "l")
		w.Header().Set("X-Plain", "too late")
		_, _ = io.WriteString(w, "more")
	})
	want := http.Header{"X-Sum": {"4"}, "X-Early": {"e"}, "X-Late": {"l"}}
	if !reflect.DeepEqual(out.after, want) || len(out.header) != 2 || out.header.Get("X-Plain") != "p" {
		t.Errorf("trailer %v, header %v", out.after, out.header)
	}
	if out := serve(func(http.ResponseWriter, *http.Request) {}); out.after != nil {
		t.Errorf("trailer %v", out.after)
	}
}
