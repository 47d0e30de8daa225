package main

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/node"
)

// deployWait is what a deploy waits for: all holders, those of a place, or a number of them.
type deployWait struct {
	place string // a region or group; "" = anywhere
	count int    // 0 = all planned there
	limit time.Duration
}

// parseWait reads the value of --wait.
func parseWait(s string, limit time.Duration) (deployWait, error) {
	if s == "all" {
		return deployWait{limit: limit}, nil
	}
	if n, err := strconv.Atoi(s); err == nil && n >= 0 {
		if n == 0 {
			limit = 0
		}
		return deployWait{count: n, limit: limit}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return deployWait{limit: d}, nil
	}
	if err := perigee.CheckLabel(s); err != nil {
		return deployWait{}, usagef("--wait %q: use all, a region or group, a number of nodes, or a time like 5m", s)
	}
	return deployWait{place: s, limit: limit}, nil
}

// over reports whether there is nothing more to wait for.
func (w deployWait) over(s *node.FunctionStatus) bool {
	planned, warm := w.holders(s)
	if w.count > 0 {
		return warm >= w.count
	}
	return planned > 0 && warm == planned
}

// holders counts the planned holders in the place that are up, and those as warm as they are to be.
func (w deployWait) holders(s *node.FunctionStatus) (planned, warm int) {
	for _, h := range s.Holders {
		if !h.Planned || h.State != perigee.NodeAlive || w.place != "" && string(h.Region) != w.place && !slices.Contains(h.Groups, w.place) {
			continue
		}
		planned++
		if h.Warmth >= h.Wanted {
			warm++
		}
	}
	return planned, warm
}

// String says where, for an error.
func (w deployWait) String() string {
	switch {
	case w.place != "":
		return "in " + w.place
	case w.count > 0:
		return "on " + fmt.Sprint(w.count)
	}
	return "everywhere"
}
