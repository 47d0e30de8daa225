package wan

// packets is a heap of packets, the first one due on top, in the order sent where times are equal.
type packets []packet

func (q packets) Len() int { return len(q) }

func (q packets) Less(i, j int) bool {
	if !q[i].due.Equal(q[j].due) {
		return q[i].due.Before(q[j].due)
	}
	return q[i].seq < q[j].seq
}

func (q packets) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

func (q *packets) Push(x any) { *q = append(*q, x.(packet)) }

func (q *packets) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = packet{}
	*q = old[:len(old)-1]
	return last
}
