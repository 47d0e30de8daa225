//go:build linux

package main

import (
	"errors"
	"testing"
	"time"
)

func TestBackAfter(t *testing.T) {
	surge := time.Unix(1000, 0)
	// each answers as that moment's digit says, in hundreds of milliseconds; x fails
	series := func(digits string) (all []response) {
		for i, d := range digits {
			for j := range 10 {
				r := response{began: surge.Add(time.Duration(i)*slot + time.Duration(j)*slot/10), took: time.Duration(d-'0') * 100 * time.Millisecond}
				if d == 'x' {
					r.took, r.err = time.Millisecond, errors.New("503")
				}
				all = append(all, r)
			}
		}
		return all
	}
	for _, tt := range []struct {
		digits string
		want   time.Duration
	}{
		{"111111111111", 0},
		{"9991111111111", 1500 * time.Millisecond},
		{"x111111111111", 500 * time.Millisecond},
		{"91119111111111111", 2500 * time.Millisecond},
		{"911111111111111119", 500 * time.Millisecond},
		{"2222222222", 0},
		{"3333333333", 5 * time.Second},
	} {
		if got := backAfter(series(tt.digits), surge, 200*time.Millisecond); got != tt.want {
			t.Errorf("%s: back after %v, want %v", tt.digits, got, tt.want)
		}
	}
}
