package abi

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"
)

// The caps on what a guest can log. A function has a rate of its own, so that one that floods does
// not silence the others.
const (
	maxLogLine    = 4 << 10  // bytes; longer lines are cut
	maxLogRequest = 64 << 10 // bytes a request
	logRate       = rate.Limit(256 << 10)
	logBurst      = 1 << 20
)

// NewLogRate returns the rate, in bytes, that all requests of a function share.
func NewLogRate() *rate.Limiter { return rate.NewLimiter(logRate, logBurst) }

// Log takes what one request's guest logs and prints. Lines above the caps are counted, not kept.
type Log struct {
	out     *slog.Logger
	rate    *rate.Limiter
	left    int
	Dropped *atomic.Int64 // bytes; shared with who wants to know

	partial map[slog.Level][]byte // unfinished lines of the two streams
	last    string                // the last line that looks like the reason of a crash
}

// NewLog returns the log of one request. limiter is the function's.
func NewLog(out *slog.Logger, limiter *rate.Limiter, dropped *atomic.Int64) *Log {
	return &Log{out: out, rate: limiter, left: maxLogRequest, Dropped: dropped, partial: map[slog.Level][]byte{}}
}

// Enabled reports whether messages of a level are kept at all.
func (l *Log) Enabled(level slog.Level) bool { return l.out.Enabled(context.Background(), level) }

// Line logs one message of the guest.
func (l *Log) Line(level slog.Level, msg []byte) {
	text := printableText(msg)
	if strings.HasPrefix(text, "panic: ") || strings.HasPrefix(text, "fatal error: ") || strings.Contains(text, "panicked at") {
		l.last = text
	}
	if text == "" {
		return
	}
	if len(text) > l.left || !l.rate.AllowN(time.Now(), len(text)) {
		l.Dropped.Add(int64(len(text)))
		return
	}
	l.left -= len(text)
	l.out.Log(context.Background(), level, "guest", "line", text)
}

// Stream returns a writer for standard output or standard error, which logs whole lines at a level.
func (l *Log) Stream(level slog.Level) *Stream { return &Stream{log: l, level: level} }

// Close logs what is left of unfinished lines.
func (l *Log) Close() {
	for level, b := range l.partial {
		if len(b) > 0 {
			l.Line(level, b)
		}
	}
	clear(l.partial)
}

// Crash returns the line in which the guest said why it crashed, or "".
func (l *Log) Crash() string { return l.last }

// Stream is one of a guest's output streams.
type Stream struct {
	log   *Log
	level slog.Level
}

// Write takes the next bytes of the stream. It never fails: a guest must not depend on who reads its
// log.
func (s *Stream) Write(p []byte) (int, error) {
	n := len(p)
	rest := s.log.partial[s.level]
	for len(p) > 0 {
		line, after, whole := bytes.Cut(p, []byte{'\n'})
		if free := maxLogLine - len(rest); free > 0 {
			rest = append(rest, line[:min(len(line), free)]...)
		}
		if whole {
			s.log.Line(s.level, rest)
			rest = rest[:0]
		}
		p = after
	}
	s.log.partial[s.level] = rest
	return n, nil
}

// printableText cuts a line to size and replaces what could disturb a terminal or forge other lines.
func printableText(b []byte) string {
	b = bytes.TrimRight(b[:min(len(b), maxLogLine)], "\r\n")
	clean := true
	for _, c := range b {
		if (c < 0x20 && c != '\t') || c >= 0x7f {
			clean = false
			break
		}
	}
	if clean {
		return string(b)
	}
	return strings.Map(func(r rune) rune {
		if (r < 0x20 && r != '\t') || (r >= 0x7f && r < 0xa0) || r == utf8.RuneError {
			return '·'
		}
		return r
	}, string(b))
}
