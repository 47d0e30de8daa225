package runtime

import "github.com/perigee-edge/perigee/internal/wasmbin"

// frame is the grain of images and of resets.
const frame = 4 << 10

// image is what the memory of a new instance holds, and the rest of what makes it new. It does not
// change. Instances share what they do not write to.
type image struct {
	size     int64 // bytes, a multiple of a page
	resident int64 // bytes of its frames that are not all zero
	zero     []bool
	content
	ready    bool     // the guest has started: an instance can answer at once
	globals  []uint64 // of a ready one, in the order of revision.state
	features uint32   // of a ready one: what the guest has enabled of http-wasm
}

// rawImage is what a module's data segments make.
func rawImage(m *wasmbin.Rewritten) (*image, error) {
	size := int64(0)
	if m.Memory != nil {
		size = int64(m.Memory.Min) * pageBytes
	}
	img := &image{size: size, zero: make([]bool, size/frame)}
	for i := range img.zero {
		img.zero[i] = true
	}
	if err := img.open(size); err != nil {
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
	img.count()
	return img, img.seal()
}

// readyImage is a copy of a memory.
func readyImage(memory []byte) (*image, error) {
	size := int64(len(memory))
	img := &image{size: size, zero: make([]bool, size/frame), ready: true}
	if err := img.open(size); err != nil {
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
	img.count()
	return img, img.seal()
}

func (img *image) count() {
	for _, zero := range img.zero {
		if !zero {
			img.resident += frame
		}
	}
}

// restore makes the frames of b, which begins at a place of the image, what they are in the image.
// Behind its end is nothing.
func (img *image) restore(b []byte, at int64) {
	for n := int64(0); n < int64(len(b)); n += frame {
		if f := b[n : n+frame]; at+n >= img.size || img.zero[(at+n)/frame] {
			clear(f)
		} else {
			copy(f, img.view[at+n:])
		}
	}
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
