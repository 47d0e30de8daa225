//go:build !unix

package sandbox

// space is memory that grows by copying, where addresses can't be reserved.
type space struct{ b []byte }

func reserve(int64) (space, error) { return space{}, nil }

func (s *space) grow(size int64) ([]byte, error) {
	if size > int64(len(s.b)) {
		s.b = append(s.b, make([]byte, size-int64(len(s.b)))...)
	}
	return s.b[:size], nil
}

func (s *space) release() { s.b = nil }
