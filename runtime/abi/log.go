package abi

import (
	"bytes"
	"context"
	"fmt"
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

// LogRate is the rate, in bytes, that all requests of a function share, and what went above it. It is
// safe for concurrent use.
type LogRate struct {
	limit *rate.Limiter
	lost  atomic.Int64 // lines that were dropped and not yet spoken of
}

// NewLogRate returns the rate of a function.
func NewLogRate() *LogRate { return &LogRate{limit: rate.NewLimiter(logRate, logBurst)} }

// RequestID is the header field in which the gateway tells the guest the request's id.
const RequestID = "Perigee-Request-Id"

// Line is one line that a guest logged or printed, fit for a terminal.
type Line struct {
	Time    time.Time
	Level   slog.Level
	Request string // id; "" = the guest was starting
	Text    string
}

// Log takes what one request's guest logs and prints. Lines above the caps are counted, not kept.
type Log struct {
	out     *slog.Logger
	rate    *LogRate
	request string
	keep    func(Line) // nil = nobody
	left    int
	Dropped *atomic.Int64 // bytes; shared with who wants to know

	partial map[slog.Level][]byte // unfinished lines of the two streams
	last    string                // the last line that looks like the reason of a crash
}

// NewLog returns the log of one request. limiter is the function's.
func NewLog(out *slog.Logger, rate *LogRate, dropped *atomic.Int64) *Log {
	return &Log{out: out, rate: rate, left: maxLogRequest, Dropped: dropped, partial: map[slog.Level][]byte{}}
}

// Tag gives the lines the request's id, and also hands them to keep unless it is nil.
func (l *Log) Tag(request string, keep func(Line)) { l.request, l.keep = request, keep }

// Enabled reports whether messages of a level are kept at all. Who keeps lines gets those of level INFO
// and above, whatever the node's own log is set to.
func (l *Log) Enabled(level slog.Level) bool {
	return l.keep != nil && level >= slog.LevelInfo || l.out.Enabled(context.Background(), level)
}

// Line logs one message of the guest.
func (l *Log) Line(level slog.Level, msg []byte) {
	text := printableText(msg)
	if strings.HasPrefix(text, "panic: ") || strings.HasPrefix(text, "fatal error: ") || strings.Contains(text, "panicked at") {
		l.last = text
	}
	if text == "" || !l.Enabled(level) {
		return
	}
	now := time.Now()
	if len(text) > l.left || !l.rate.limit.AllowN(now, len(text)) {
		l.Dropped.Add(int64(len(text)))
		l.rate.lost.Add(1)
		return
	}
	l.left -= len(text)
	l.write(now, level, text)
}

func (l *Log) write(now time.Time, level slog.Level, text string) {
	if l.request == "" {
		l.out.Log(context.Background(), level, "guest", "line", text)
	} else {
		l.out.Log(context.Background(), level, "guest", "id", l.request, "line", text)
	}
	if l.keep != nil && level >= slog.LevelInfo {
		l.keep(Line{Time: now, Level: level, Request: l.request, Text: text})
	}
}

// tellLost says how many lines of the function were dropped, as soon as the rate has room for that.
func (l *Log) tellLost() {
	n := l.rate.lost.Swap(0)
	if n == 0 {
		return
	}
	text := fmt.Sprintf("dropped %d lines: a request may log %d KiB, and all of a function %d KiB a second", n, maxLogRequest>>10, int(logRate)>>10)
	now := time.Now()
	if !l.rate.limit.AllowN(now, len(text)) {
		l.rate.lost.Add(n)
		return
	}
	l.write(now, slog.LevelWarn, text)
}

// Stream returns a writer for standard output or standard error, which logs whole lines at a level.
func (l *Log) Stream(level slog.Level) *Stream { return &Stream{log: l, level: level} }

// Close logs what is left of unfinished lines, and how many were dropped.
func (l *Log) Close() {
	for level, b := range l.partial {
		if len(b) > 0 {
			l.Line(level, b)
		}
	}
	clear(l.partial)
	l.tellLost()
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
