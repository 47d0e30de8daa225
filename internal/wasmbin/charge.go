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
	loop   bool
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
				f.closings = append(f.closings, closing{loop: true})
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
				next = f.branches(b.label, next, i+1, slack)
			} else {
				next = f.arms(next, i+1, b.other, b.second)
			}
			f.closings = f.closings[:top]
		case opBr:
			next = f.target(p.index).label
		case opBrIf:
			b := f.target(p.index)
			switch {
			case b.loop:
				next = f.branches(b.label, next, i+1, 0)
			case p.exits:
				next = f.branches(b.label, next, i+1, exitSlack)
			default:
				next = f.branches(b.label, next, i+1, slack)
			}
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

// target returns the block of a label.
func (f *metered) target(i uint32) closing {
	if at := len(f.closings) - 1 - int(i); at >= 0 {
		return f.closings[at]
	}
	return closing{} // the function
}

// branches returns what is due before a branch to a place where nothing can be paid, and sets what is paid
// after it, if it is not taken.
func (f *metered) branches(taken, passed due, at int, slack int64) due {
	switch more := passed.units - taken.units; {
	case passed.doomed:
		return taken
	case taken.doomed:
		return passed
	case more > slack || -more > slack:
		f.points[at].charge = more
		return taken
	case more > 0:
		return passed
	}
	return taken
}

// arms returns what is due before an if with an else, and sets what is paid in the dearer arm.
func (f *metered) arms(a due, first int, b due, second int) due {
	if b.units < a.units || a.doomed {
		return f.branches(b, a, first, slack)
	}
	return f.branches(a, b, second, slack)
}
