package record

import "time"

// HLC is a hybrid logical clock reading (Kulkarni et al., "Logical Physical Clocks", 2014): 48 bits
// of Unix milliseconds, then 16 bits that count events within one millisecond.
type HLC uint64

// HLCAt returns the first reading of the millisecond of t.
func HLCAt(t time.Time) HLC { return HLC(t.UnixMilli()) << 16 }

// Time returns the physical part.
func (h HLC) Time() time.Time { return time.UnixMilli(int64(h >> 16)) }

// Next returns the smallest reading after h that is not before now.
func (h HLC) Next(now time.Time) HLC { return max(h+1, HLCAt(now)) }
