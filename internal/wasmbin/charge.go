package wasmbin

// due is what must have been paid when a place is reached. A place is doomed if all ways from it end in a
// trap: nobody minds who pays for what there.
type due struct {
	units  int64
	doomed bool
}

// closing is a block on the way from its end to its beginning.
type closing struct {
	label  due // at its label
	other  due // at the beginning of its else
	second int // the point that ends the first segment of its else, 0 = it has none
}

// charges sets what is paid where. It goes backwards: what must have been paid at the beginning of a segment
// is its cost and what is due where it goes.
func (f *metered) charges() {
	f.closings = f.closings[:0]
	var next due // at the beginning of the segment after the point
	for i := len(f.points) - 1; i >= 0; i-- {
		p := &f.points[i]
		top := len(f.closings) - 1
		switch p.op {
		case opEnd:
			switch {
			case p.last:
				next = due{}
			case p.loop:
				f.closings = append(f.closings, closing{})
			default:
				if p.unpaid {
					f.points[i+1].charge, next.units = next.units, 0
				}
				f.closings = append(f.closings, closing{label: next})
			}
		case opElse:
			f.closings[top].other, f.closings[top].second = next, i+1
			next = f.closings[top].label
		case opBlock:
			f.closings = f.closings[:top]
		case opLoop:
			f.points[i+1].charge, next = next.units, due{}
			f.closings = f.closings[:top]
		case opIf:
			if b := f.closings[top]; b.second == 0 {
				next = f.part(b.label, next, i+1)
			} else if b.other.units < next.units || next.doomed {
				next = f.part(b.other, next, i+1)
			} else {
				next = f.part(next, b.other, b.second)
			}
			f.closings = f.closings[:top]
		case opBr:
			next = f.target(p.index)
		case opBrIf:
			next = f.part(f.target(p.index), next, i+1)
		case opBrTable, opReturn:
			next = due{}
		case opUnreachable:
			next = due{doomed: true}
		}
		if !next.doomed {
			next.units += p.cost
		}
	}
	f.points[0].charge = next.units
}

// target returns what is due at a label; at those of loops and of the function, nothing is.
func (f *metered) target(i uint32) due {
	if at := len(f.closings) - 1 - int(i); at >= 0 {
		return f.closings[at].label
	}
	return due{}
}

// part returns what is due where two ways part. On the one nothing can be paid, so that this is what is due;
// the difference is paid where the other begins.
func (f *metered) part(one, other due, at int) due {
	switch {
	case other.doomed:
		return one
	case one.doomed:
		return other
	}
	f.points[at].charge = other.units - one.units
	return one
}
