package wasip1

import (
	"errors"
	"io/fs"
	"syscall"
)

// errno is the result of almost every function.
type errno uint32

// The numbers that are used here.
const (
	success     errno = 0
	acces       errno = 2
	badf        errno = 8
	exist       errno = 20
	fault       errno = 21
	ilseq       errno = 25
	inval       errno = 28
	ioError     errno = 29
	isdir       errno = 31
	loop        errno = 32
	mfile       errno = 33
	nametoolong errno = 37
	noent       errno = 44
	nosys       errno = 52
	notdir      errno = 54
	notsock     errno = 57
	notsup      errno = 58
	rofs        errno = 69
	spipe       errno = 70
	notcapable  errno = 76
)

// errnoOf translates an error of a file system.
func errnoOf(err error) errno {
	switch {
	case err == nil:
		return success
	case errors.Is(err, fs.ErrNotExist):
		return noent
	case errors.Is(err, fs.ErrPermission):
		return acces
	case errors.Is(err, fs.ErrInvalid), errors.Is(err, syscall.EINVAL):
		return inval
	case errors.Is(err, syscall.ENOTDIR):
		return notdir
	case errors.Is(err, syscall.EISDIR):
		return isdir
	case errors.Is(err, syscall.ELOOP):
		return loop
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return mfile
	}
	return ioError
}
