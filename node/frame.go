package node

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/perigee-edge/perigee/internal/record"
)

// A record frame is a big-endian uint32 length and that many bytes.

func writeFrame(w io.Writer, b []byte) error {
	var head [4]byte
	binary.BigEndian.PutUint32(head[:], uint32(len(b)))
	if _, err := w.Write(head[:]); err != nil {
		return err
	}
	_, err := w.Write(b)
	return err
}

func writeFrames(w io.Writer, records ...[]byte) error {
	for _, b := range records {
		if err := writeFrame(w, b); err != nil {
			return err
		}
	}
	return nil
}

func readFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > record.MaxSize {
		return nil, fmt.Errorf("read record: %d bytes, the limit is %d", n, record.MaxSize)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("read record: %w", err)
	}
	return b, nil
}

// readFrames reads frames until the end, at most limit of them.
func readFrames(r io.Reader, limit int) ([][]byte, error) {
	var out [][]byte
	for {
		b, err := readFrame(r)
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if out = append(out, b); len(out) > limit {
			return nil, fmt.Errorf("read records: more than %d in one request", limit)
		}
	}
}
