// Package bundle knows what the author of a function hands over: the manifest (perigee.toml), the
// archive of the Wasm module and its static files, and the store that keeps archives on a node.
//
// It does not look into the Wasm module, does not know which node should hold what, does not fetch
// anything, and starts no goroutine. All functions may be called concurrently.
//
// # The archive
//
// An archive is a POSIX ustar file with one possible form for given contents, so that the same
// input has the same digest everywhere, and `tar tf` shows it:
//
//	perigee/handler.wasm          the module, first
//	files/<path>                  the static files, sorted by the bytes of their path
//	two blocks of 512 zero bytes
//
// Every header is the one that header returns for the name and the size: mode 0644, owner and
// group 0 without names, time 0, no links, no extensions, no directories. A name of more than 100
// bytes is split at the last '/' that leaves at most 155 bytes before it. Contents are padded with
// zero bytes to a multiple of 512. Names are UTF-8, printable, without '.', '..', empty segments
// and backslashes; two names that differ only in case are refused, and so is a name that is both a
// file and a directory. Read accepts nothing else, so the digest of an archive is a digest of its
// contents.
//
// # The store
//
//	<dir>/<64 hex digits>        a blob, named by its BLAKE3 digest; complete and on the disk
//	<dir>/tmp/<64 hex digits>-*  being written; swept when the store is opened
//	<dir>/partial/<64 hex digits> slices of a blob that is being fetched, in the order of their coming
//	<dir>/corrupt/<64 hex digits> a blob that no longer had its digest, for the operator to look at
//
// A blob is written to tmp, synced, renamed, and the directory synced, in this order: after a
// power cut it is there whole or not at all, and it is there if Put had returned. Blobs are
// verified each time they are read. One process at a time uses a directory.
//
// A file in partial is entries: index(4) length(4), little endian, then so many bytes of a sealed slice
// (package digest), which proves itself. It is not synced: whatever a crash leaves of it, the entries up
// to the first that is not right are good.
package bundle
