package lab

import (
	"container/heap"
	"time"
)

// transit is a packet on its way.
type transit struct {
	due     time.Time
	seq     uint64 // decides between equal times: in the order of sending
	data    *[]byte
	way     *link
	to      *port
	arrived bool // has crossed the distance and waits for the receiver's line
}

// waiting orders packets by when they are due. It is a heap.
type waiting []transit

func (w waiting) Len() int { return len(w) }
func (w waiting) Less(i, j int) bool {
	if !w[i].due.Equal(w[j].due) {
		return w[i].due.Before(w[j].due)
	}
	return w[i].seq < w[j].seq
}
func (w waiting) Swap(i, j int) { w[i], w[j] = w[j], w[i] }

// Push and Pop are for package heap only.
func (w *waiting) Push(x any) { *w = append(*w, x.(transit)) }

func (w *waiting) Pop() any {
	last := len(*w) - 1
	t := (*w)[last]
	(*w)[last] = transit{}
	*w = (*w)[:last]
	return t
}

var _ heap.Interface = (*waiting)(nil)
