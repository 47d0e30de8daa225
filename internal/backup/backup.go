// Package backup is the one file in which a cluster's desired state and the bundles that it needs leave the
// cluster: how it is written and read, in one pass and with little memory. It knows the form, its digests and
// who signed it; what the records mean is package gossip's business, and what becomes of them package node's.
// It opens nothing and starts no goroutine.
//
// # Format, version 1
//
// A file is "PGBAK\x00\x00\x01" and entries: kind, 1 byte; length, 8 bytes, big-endian; that many bytes.
//
//	1 head    deterministic CBOR of Head; once, first
//	2 record  a signed record (package record), as it is
//	3 bundle  the BLAKE3 digest of an archive, 32 bytes, and the archive
//	4 end     once, last: the Ed25519 signature, by the node of the head's chain, over the ASCII text
//	          "perigee backup v1\x00" and the BLAKE3 digest of all bytes before this entry
//
// So a file that was cut, or of which one bit is another, is noticed, and so is one from which somebody
// took a record out. All records come before the first bundle.
package backup

import (
	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

const (
	magic       = "PGBAK\x00\x00\x01"
	signContext = "perigee backup v1\x00"
	entryHead   = 1 + 8
	digestSize  = 32
)

// Bounds of what is read.
const (
	MaxRecords = 1 << 30   // bytes of all records: four times what a cluster holds
	MaxBundle  = 1 << 30   // of one bundle; package bundle is stricter
	maxHead    = 512 << 10 // a genesis record and a chain of certificates
)

type kind byte

const (
	kindHead   kind = 1
	kindRecord kind = 2
	kindBundle kind = 3
	kindEnd    kind = 4
)

// Head says what a backup is of.
type Head struct {
	_       struct{}       `cbor:",toarray"`
	Genesis []byte         // the record that began the cluster's epoch
	Node    perigee.NodeID // that wrote the backup
	Chain   [][]byte       // its certificate, DER, leaf first, without the root
	Made    record.HLC
}
