// Package swarm decides, while a node fetches a blob in slices from several others, which slice to ask of
// which node next. It is pure: it opens nothing, starts nothing, and is told the time.
//
// Nodes that fetch the same blob at the same time exchange slices. Each has a share of them, which it gets
// from a node that has all; the shares of the others it takes from them, as they come. So those who have
// all send little more than one copy, and all lines are busy. Of the nodes of one region each brings some
// slices from outside, and takes the rest inside: so one copy comes into a region. Shares are rules of
// politeness, computed by each from what it knows: they hold until the others are slow. A source gets as many requests at once as its answers do not queue up for.
// What a source is late with is asked of another one, too.
//
// All of this is about speed alone: each slice is verified by whoever receives it, so that no source need
// be believed. A source that lies is for the caller to Drop.
package swarm

import (
	"cmp"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
)

const (
	firstWindow = 4 // requests at once
	maxWindow   = 32
	fewQueued   = 2 // requests that wait at a source: fewer, and it gets more
	manyQueued  = 4 // more, and it gets fewer

	hedgeAfter  = 150 * time.Millisecond // beyond twice what is usual for a source
	firstTime   = 500 * time.Millisecond // that a slice takes beyond two round trips, before one came
	busyPause   = 250 * time.Millisecond
	patience    = time.Second            // without a slice, after which shares hold no more
	grace       = 100 * time.Millisecond // for others beyond a quarter of the time that this node's share took
	maxPerSlice = 2                      // requests for one slice at once
)

// Source is a node to ask.
type Source struct {
	ID       perigee.NodeID
	Region   perigee.Region
	RTT      time.Duration // 0 = not known
	Complete bool          // it says that it has the blob; others Announce what they have
}

// Ask is a request for a slice.
type Ask struct {
	From  perigee.NodeID
	Slice int
}

// Swarm is the state of one fetch. It is not safe for concurrent use.
type Swarm struct {
	self     perigee.NodeID
	region   perigee.Region
	slices   []slice
	left     int
	sources  map[perigee.NodeID]*source
	began    time.Time
	progress time.Time // of the last slice, at first began
	own      duty      // this node's share of all slices
	ours     duty      // and of those of its region
}

type slice struct {
	here  bool
	known int // receivers that have it
	asked []asked
}

type asked struct {
	from *source
	at   time.Time
}

type source struct {
	Source
	has    []bool
	flying int
	window int
	least  time.Duration // a slice took; 0 = none came
	usual  time.Duration // a slice takes
	paused time.Time
}

// New begins the fetch of a blob of so many slices by a node.
func New(self perigee.NodeID, region perigee.Region, count int, now time.Time) *Swarm {
	return &Swarm{
		self: self, region: region, slices: make([]slice, count), left: count,
		sources: map[perigee.NodeID]*source{}, began: now, progress: now,
	}
}

// Left returns how many slices are missing.
func (s *Swarm) Left() int { return s.left }

// Progress returns when the last slice came; at first it is the beginning.
func (s *Swarm) Progress() time.Time { return s.progress }

// Sources returns how many sources there are, and how many of them are complete.
func (s *Swarm) Sources() (all, complete int) {
	for _, src := range s.sources {
		if src.Complete {
			complete++
		}
	}
	return len(s.sources), complete
}

// Here notes a slice that was here before.
func (s *Swarm) Here(i int) {
	if !s.slices[i].here {
		s.slices[i].here = true
		s.left--
	}
}

// Join adds a source, or notes that a known one is complete by now. It reports whether it was not known.
func (s *Swarm) Join(src Source) bool {
	if old := s.sources[src.ID]; old != nil {
		old.Complete, old.RTT = old.Complete || src.Complete, src.RTT
		return false
	}
	s.sources[src.ID] = &source{Source: src, has: make([]bool, len(s.slices)), window: firstWindow}
	return true
}

// Announce notes that a source has a slice. False means that this can't be: there is no such slice, or the
// source said so before.
func (s *Swarm) Announce(id perigee.NodeID, i int) bool {
	src := s.sources[id]
	if src == nil {
		return true // it was dropped meanwhile
	}
	if i < 0 || i >= len(s.slices) || src.has[i] {
		return false
	}
	src.has[i] = true
	s.slices[i].known++
	return true
}

// Drop removes a source; what it was asked for is asked of others.
func (s *Swarm) Drop(id perigee.NodeID) {
	src := s.sources[id]
	if src == nil {
		return
	}
	delete(s.sources, id)
	for i := range s.slices {
		if src.has[i] {
			s.slices[i].known--
		}
		s.slices[i].asked = slices.DeleteFunc(s.slices[i].asked, func(a asked) bool { return a.from == src })
	}
}

// Arrived notes that a verified slice came, and returns the other requests for it, which are of no use any
// more.
func (s *Swarm) Arrived(a Ask, now time.Time) (useless []Ask) {
	sl := &s.slices[a.Slice]
	for _, other := range sl.asked {
		other.from.flying--
		if other.from.ID == a.From {
			other.from.answered(now.Sub(other.at))
		} else {
			useless = append(useless, Ask{other.from.ID, a.Slice})
		}
	}
	sl.asked = nil
	s.progress = now
	s.Here(a.Slice)
	return useless
}

// answered adapts how much a source is asked for at once: the longer answers take than the fastest one
// did, the more of them wait for one another.
func (src *source) answered(took time.Duration) {
	took = max(took, time.Microsecond)
	if src.least == 0 {
		src.least, src.usual = took, took
	}
	src.least = min(src.least, took)
	src.usual += (took - src.usual) / 4
	queued := float64(src.window) * (1 - float64(src.least)/float64(took))
	switch {
	case queued < fewQueued:
		src.window = min(src.window+1, maxWindow)
	case queued > manyQueued:
		src.window = max(src.window-1, 2)
	}
}

// Busy notes that a source takes no more requests for a moment, so that this one is asked later.
func (s *Swarm) Busy(a Ask, now time.Time) {
	sl := &s.slices[a.Slice]
	for _, other := range sl.asked {
		if other.from.ID == a.From {
			other.from.flying--
			other.from.window = max(other.from.window/2, 1)
			other.from.paused = now.Add(busyPause)
		}
	}
	sl.asked = slices.DeleteFunc(sl.asked, func(o asked) bool { return o.from.ID == a.From })
}

// Next returns what to ask now. Call it again after every event, and every now and then.
func (s *Swarm) Next(now time.Time) (asks []Ask) {
	sh := s.shares()
	s.own.look(s, now, sh.own)
	s.ours.look(s, now, sh.ours)
	stuck := now.Sub(s.progress) > patience
	own, ours := stuck || s.own.over(s, now), stuck || s.ours.over(s, now)
	may := func(src *source, i int) bool {
		switch {
		case src.Region == s.region:
			return true
		case sh.whole: // why should it come from far?
			return stuck
		case src.Complete:
			return sh.own(i) || own && (ours || sh.ours(i))
		}
		return ours || sh.ours(i)
	}
	for {
		src, i := s.best(now, sh.start, may)
		if src == nil {
			return asks
		}
		src.flying++
		s.slices[i].asked = append(s.slices[i].asked, asked{src, now})
		asks = append(asks, Ask{src.ID, i})
	}
}

// duty is the getting of a share.
type duty struct{ done time.Time } // since when all of it is here; zero = is not yet

func (d *duty) look(s *Swarm, now time.Time, part func(int) bool) {
	for i := range s.slices {
		if d.done.IsZero() && part(i) && !s.slices[i].here {
			return
		}
	}
	if d.done.IsZero() {
		d.done = now
	}
}

// over reports whether the others had their time to get theirs, too.
func (d *duty) over(s *Swarm, now time.Time) bool {
	return !d.done.IsZero() && now.Sub(d.done) > d.done.Sub(s.began)/4+grace
}

// shares is how the receivers divide the slices, in the order of their regions and names.
type shares struct {
	whole bool           // somebody in this node's region has all
	start int            // where this node begins
	own   func(int) bool // what it is to get from those who have all
	ours  func(int) bool // what it is to bring into its region
}

func (s *Swarm) shares() (sh shares) {
	all := []Source{{ID: s.self, Region: s.region}}
	for _, src := range s.sources {
		if !src.Complete {
			all = append(all, src.Source)
		}
		sh.whole = sh.whole || src.Complete && src.Region == s.region
	}
	slices.SortFunc(all, func(a, b Source) int { return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.ID, b.ID)) })
	var near []perigee.NodeID
	for i, src := range all {
		if src.ID == s.self {
			sh.start = (i*len(s.slices) + len(all) - 1) / len(all) % max(1, len(s.slices))
		}
		if src.Region == s.region {
			near = append(near, src.ID)
		}
	}
	owner := func(i int) Source { return all[i*len(all)/len(s.slices)] }
	sh.own = func(i int) bool { return owner(i).ID == s.self }
	sh.ours = func(i int) bool {
		if o := owner(i); o.Region == s.region {
			return o.ID == s.self
		}
		return near[i%len(near)] == s.self
	}
	return sh
}

// best returns the next request to make: of the source that will answer it first.
func (s *Swarm) best(now time.Time, start int, may func(*source, int) bool) (*source, int) {
	order := make([]*source, 0, len(s.sources))
	for _, src := range s.sources {
		if src.flying < src.window && !now.Before(src.paused) {
			order = append(order, src)
		}
	}
	slices.SortFunc(order, func(a, b *source) int {
		return cmp.Or(cmp.Compare(a.cost(), b.cost()), cmp.Compare(a.ID, b.ID))
	})
	for _, rule := range []func(src *source, sl *slice) bool{
		func(src *source, sl *slice) bool { return len(sl.asked) == 0 && (!src.Complete || sl.known == 0) },
		func(src *source, sl *slice) bool { return len(sl.asked) == 0 },
		func(src *source, sl *slice) bool { return s.late(sl, src, now) },
	} {
		for _, src := range order {
			for k := range s.slices {
				i := (start + k) % len(s.slices)
				sl := &s.slices[i]
				if !sl.here && (src.Complete || src.has[i]) && may(src, i) && rule(src, sl) {
					return src, i
				}
			}
		}
	}
	return nil, 0
}

// late reports whether a slice was asked of somebody else who is late with it.
func (s *Swarm) late(sl *slice, src *source, now time.Time) bool {
	if len(sl.asked) == 0 || len(sl.asked) >= maxPerSlice {
		return false
	}
	a := sl.asked[0]
	return a.from != src && now.Sub(a.at) > 2*a.from.expected()+hedgeAfter
}

// expected is how long a source takes for a slice.
func (src *source) expected() time.Duration {
	if src.usual > 0 {
		return src.usual
	}
	return 2*src.RTT + firstTime
}

// cost is how long one more request would take.
func (src *source) cost() time.Duration {
	return src.RTT + src.expected()*time.Duration(src.flying+1)/time.Duration(src.window)
}
