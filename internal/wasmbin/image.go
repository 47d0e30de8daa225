package wasmbin

// data reads the data section: active segments become the image, and what is left of the section is
// returned.
func (w *rewriter) data() encoder {
	n := w.enter(secData)
	var e encoder
	e.u32(n)
	for range n {
		at := w.pos
		flags := w.u32()
		if flags == 1 {
			content := w.bytes(w.u32())
			e = append(e, 1)
			e.u32(uint32(len(content)))
			e = append(e, content...)
			continue
		}
		if flags == 2 {
			w.u32() // the memory; there is one
		}
		offset := w.offset()
		content := w.bytes(w.u32())
		if size := uint64(w.out.Memory.Min) << 16; uint64(offset)+uint64(len(content)) > size {
			w.fail(at, "data", "a data segment of %d bytes at %d lies outside the memory of %d", len(content), offset, size)
		}
		if len(content) > 0 {
			w.result.Image = append(w.result.Image, Chunk{Offset: offset, Bytes: content})
		}
		e = append(e, 1, 0)
	}
	return e
}

// offset evaluates where an active segment begins. A global would have to be imported, and there is
// nothing to import one from.
func (w *rewriter) offset() uint32 {
	at := w.pos
	if op := w.byte(); op != 0x41 {
		w.fail(at, "const-expr", "the offset of a data segment is instruction 0x%02x; want i32.const", op)
	}
	v := w.signed(32)
	w.byte() // end
	return uint32(v)
}
