package sandbox

import (
	"encoding/binary"

	"github.com/perigee-edge/perigee/internal/wasmbin"
)

// frame is the grain of images and of resets.
const frame = 4 << 10

// pageBytes is the grain of linear memories.
const pageBytes = 64 << 10

// image is what the memory of a new instance holds, and the rest of what makes it new. It does not
// change. Instances share what they do not write to.
type image struct {
	size     int64  // bytes of the memory, a multiple of a page
	resident int64  // bytes up to the end of the last frame that is not all zero: what the content holds
	zero     []bool // of the frames of the content
	content
	ready   bool     // the guest has started
	globals []uint64 // of a ready one, in the order of Module.state
}

// rawImage is what a module's data segments make.
func rawImage(m *wasmbin.Rewritten) (*image, error) {
	img := &image{}
	if m.Memory != nil {
		img.size = int64(m.Memory.Min) * pageBytes
	}
	for _, c := range m.Image {
		img.resident = max(img.resident, frameUp(int64(c.Offset)+int64(len(c.Bytes))))
	}
	img.zero = make([]bool, img.resident/frame)
	for i := range img.zero {
		img.zero[i] = true
	}
	if err := img.open(img.resident); err != nil {
		return nil, err
	}
	for _, c := range m.Image {
		if err := img.write(int64(c.Offset), c.Bytes); err != nil {
			img.close()
			return nil, err
		}
		for at := int64(c.Offset) / frame; at*frame < int64(c.Offset)+int64(len(c.Bytes)); at++ {
			img.zero[at] = false
		}
	}
	return img, img.seal()
}

// readyImage is a copy of a memory.
func readyImage(memory []byte) (*image, error) {
	img := &image{size: int64(len(memory)), ready: true}
	for at := img.size; at > 0 && img.resident == 0; at -= frame {
		if !allZero(memory[at-frame : at]) {
			img.resident = at
		}
	}
	img.zero = make([]bool, img.resident/frame)
	if err := img.open(img.resident); err != nil {
		return nil, err
	}
	for i := range img.zero {
		b := memory[i*frame : (i+1)*frame]
		if img.zero[i] = allZero(b); img.zero[i] {
			continue
		}
		if err := img.write(int64(i)*frame, b); err != nil {
			img.close()
			return nil, err
		}
	}
	return img, img.seal()
}

func frameUp(n int64) int64 { return (n + frame - 1) / frame * frame }

// restore makes the frames of b, which begins at a place of the image, what they are in the image.
// Behind its end is nothing.
func (img *image) restore(b []byte, at int64) {
	for n := int64(0); n < int64(len(b)); n += frame {
		if f := b[n : n+frame]; at+n >= img.resident || img.zero[(at+n)/frame] {
			if !allZero(f) { // it may be the kernel's frame of zeros, which stays so
				clear(f)
			}
		} else {
			copy(f, img.view[at+n:])
		}
	}
}

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.NativeEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	return len(b) == 0 || b[0] == 0 && allZero(b[1:])
}
