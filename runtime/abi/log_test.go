package abi_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/perigee-edge/perigee/runtime/abi"
)

func newLog(out io.Writer) (*abi.Log, *atomic.Int64) {
	var dropped atomic.Int64
	l := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.MessageKey {
			return slog.Attr{}
		}
		return a
	}}))
	return abi.NewLog(l, abi.NewLogRate(), &dropped), &dropped
}

func TestLogLines(t *testing.T) {
	var out bytes.Buffer
	l, _ := newLog(&out)
	s := l.Stream(slog.LevelWarn)
	fmt.Fprint(s, "one\ntw")
	fmt.Fprint(l.Stream(slog.LevelInfo), "other\n\n")
	fmt.Fprint(s, "o\r\npanic: it broke\nforged\x1b[2J\x00\u0085")
	l.Line(slog.LevelError, []byte("direct\nsecond"))
	l.Line(slog.LevelDebug, []byte("not enabled"))
	l.Close()
	l.Close()
	want := `level=WARN line=one
level=INFO line=other
level=WARN line=two
level=WARN line="panic: it broke"
level=ERROR line=direct·second
level=WARN line=forged·[2J··
`
	if out.String() != want {
		t.Errorf("log:\n%s\nwant:\n%s", &out, want)
	}
	if l.Crash() != "panic: it broke" {
		t.Errorf("crash %q", l.Crash())
	}
}

// TestLogCaps floods the log in each way: what is kept is bounded, and the rest is counted.
func TestLogCaps(t *testing.T) {
	for name, flood := range map[string]func(l *abi.Log){
		"lines":    func(l *abi.Log) { fmt.Fprint(l.Stream(slog.LevelInfo), strings.Repeat("a line\n", 100_000)) },
		"one line": func(l *abi.Log) { fmt.Fprint(l.Stream(slog.LevelInfo), strings.Repeat("x", 1<<20)) },
		"messages": func(l *abi.Log) {
			for range 1000 {
				l.Line(slog.LevelInfo, bytes.Repeat([]byte("y"), 1000))
			}
		},
		"long ones": func(l *abi.Log) {
			for range 100 {
				l.Line(slog.LevelInfo, bytes.Repeat([]byte("z"), 1<<16))
			}
		},
	} {
		var out bytes.Buffer
		l, dropped := newLog(&out)
		flood(l)
		l.Close()
		if out.Len() > 300<<10 {
			t.Errorf("%s: %d bytes were logged", name, out.Len())
		}
		if name != "one line" && dropped.Load() == 0 {
			t.Errorf("%s: nothing is counted as dropped", name)
		}
	}
}

// TestLogRate checks that all requests of a function share a rate.
func TestLogRate(t *testing.T) {
	var dropped atomic.Int64
	var out bytes.Buffer
	rate := abi.NewLogRate()
	for range 100 {
		l := abi.NewLog(slog.New(slog.NewTextHandler(&out, nil)), rate, &dropped)
		for range 15 {
			l.Line(slog.LevelInfo, bytes.Repeat([]byte("x"), 4000))
		}
	}
	if out.Len() > 3<<20 || dropped.Load() == 0 {
		t.Errorf("%d bytes were logged, %d dropped", out.Len(), dropped.Load())
	}
}
