package bundle

import (
	"fmt"
	"strings"

	"github.com/perigee-edge/perigee"
)

const (
	wasmEntry   = "perigee/handler.wasm"
	filesPrefix = "files/"
	blockSize   = 512
)

// Limits bounds an archive. Zero fields mean the defaults.
type Limits struct {
	Wasm    perigee.Bytes // size of the module; default MaxWasm
	Files   perigee.Bytes // size of all files together; default MaxFiles
	Entries int           // number of files and directories; default MaxEntries
}

// The default limits. Pack has no others.
const (
	MaxWasm    = 64 * perigee.MiB
	MaxFiles   = 256 * perigee.MiB
	MaxEntries = 10_000
)

func (l Limits) withDefaults() Limits {
	if l.Wasm == 0 {
		l.Wasm = MaxWasm
	}
	if l.Files == 0 {
		l.Files = MaxFiles
	}
	if l.Entries == 0 {
		l.Entries = MaxEntries
	}
	return l
}

// Sizes of archives that can exist under the default limits.
const (
	minArchive = 4 * blockSize // one header, one block, the end
	maxArchive = int64(MaxWasm) + int64(MaxFiles) + (MaxEntries+1)*2*blockSize + 2*blockSize
)

// padded rounds a size up to whole blocks.
func padded(size int64) int64 { return (size + blockSize - 1) / blockSize * blockSize }

// header returns the one header that an entry of this name and size may have.
func header(name string, size int64) (h [blockSize]byte, err error) {
	prefix, base, ok := splitName(name)
	if !ok {
		return h, fmt.Errorf("the path %s is too long for the archive: use at most 100 bytes after a '/' that has at most 155 before it", quote(name))
	}
	copy(h[0:], base)
	copy(h[100:], "0000644\x00"+"0000000\x00"+"0000000\x00") // mode, owner, group
	copy(h[124:], fmt.Sprintf("%011o\x00", size))
	copy(h[136:], "00000000000\x00") // time
	copy(h[148:], "        ")        // checksum, as it is counted
	h[156] = '0'                     // a regular file
	copy(h[257:], "ustar\x00"+"00")
	copy(h[329:], "0000000\x00"+"0000000\x00") // device numbers
	copy(h[345:], prefix)
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h, nil
}

// splitName divides a name between the two fields that ustar has for it.
func splitName(name string) (prefix, base string, ok bool) {
	const maxBase, maxPrefix = 100, 155
	if len(name) <= maxBase {
		return "", name, name != ""
	}
	i := strings.LastIndexByte(name[:min(len(name), maxPrefix+1)], '/')
	if i <= 0 || len(name)-i-1 > maxBase || i == len(name)-1 {
		return "", "", false
	}
	return name[:i], name[i+1:], true
}
