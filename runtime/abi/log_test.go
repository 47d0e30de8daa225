package abi_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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

// TestLogTag checks that who keeps lines gets them with the request's id, whatever the log's own level.
func TestLogTag(t *testing.T) {
	var out bytes.Buffer
	var kept []string
	var dropped atomic.Int64
	l := abi.NewLog(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelError})), abi.NewLogRate(), &dropped)
	if l.Enabled(slog.LevelInfo) {
		t.Error("info is enabled for nobody")
	}
	l.Tag("0123", func(n abi.Line) {
		kept = append(kept, fmt.Sprintf("%s %s %s %v", n.Request, n.Level, n.Text, time.Since(n.Time) < time.Minute))
	})
	if !l.Enabled(slog.LevelInfo) || l.Enabled(slog.LevelDebug) {
		t.Error("info is not enabled, or debug is")
	}
	l.Line(slog.LevelDebug, []byte("debug"))
	l.Line(slog.LevelInfo, []byte("info\x1b"))
	l.Line(slog.LevelError, []byte("error"))
	for range 100 {
		l.Line(slog.LevelInfo, bytes.Repeat([]byte("x"), 4000))
	}
	l.Close()
	if len(kept) != 2+16+1 || kept[0] != "0123 INFO info· true" || kept[1] != "0123 ERROR error true" || !strings.HasPrefix(kept[18], "0123 WARN dropped 84 lines: ") {
		t.Errorf("%d lines: %.100q", len(kept), kept)
	}
	if got := out.String(); !strings.Contains(got, "id=0123 line=error") || strings.Count(got, "\n") != 1 {
		t.Errorf("the log has %q", got)
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
		l.Close()
	}
	if n := strings.Count(out.String(), "dropped"); n == 0 || n > 90 {
		t.Errorf("it says %d times that lines were dropped", n)
	}
	if out.Len() > 3<<20 || dropped.Load() == 0 {
		t.Errorf("%d bytes were logged, %d dropped", out.Len(), dropped.Load())
	}
}
