package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy"
	"github.com/perigee-edge/perigee/internal/heap"
)

// beServer answers every request with the text: by Perigee's front without a function, or by a bare
// net/http server with the same limits.
func beServer(kind, addr, dir string) error {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return err
	}
	if kind == "bare" {
		s := &http.Server{
			Addr: addr, MaxHeaderBytes: 16 << 10, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
			HTTP2:     &http.HTTP2Config{MaxConcurrentStreams: 100, MaxReceiveBufferPerStream: 256 << 10, MaxReceiveBufferPerConnection: 1 << 20, SendPingTimeout: 30 * time.Second, WriteByteTimeout: time.Minute},
			ErrorLog:  log.New(io.Discard, "", 0),
			TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}},
			Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/plain; charset=utf-8")
				_, _ = io.WriteString(w, text)
			}),
		}
		return s.ListenAndServeTLS("", "")
	}
	heap.Settle() // as `perigee node run` does
	view := world()
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	p, err := edgeproxy.New(edgeproxy.Config{
		Self: "fra-1", Region: "fra", View: func() *perigee.View { return view }, Local: static{}, Hops: nobody{},
		OnHTTPS: tcp, OnHTTP3: udp, CertDir: filepath.Join(dir, "web"), MaxConnsPerIP: 5000,
		SignWeb: func(_ context.Context, der []byte) ([]byte, error) { return sign(pair, der) },
		Logger:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	return p.Run(context.Background())
}

// world is a node alone with one function.
func world() *perigee.View {
	fn := &perigee.Function{Name: "static", Live: &perigee.Revision{ID: "a1b2c3d4e5f6"}}
	fn.Live.Manifest = perigee.Manifest{Name: "static", Routes: []perigee.Route{{Host: host}}}
	return &perigee.View{
		Desired: perigee.NewDesired(perigee.Desired{Domain: "fn.test", Functions: map[string]*perigee.Function{"static": fn}, Regions: perigee.BuiltinRegions()}),
		Observed: &perigee.Observed{Self: "fra-1", At: time.Now(), Nodes: map[perigee.NodeID]*perigee.Peer{"fra-1": {
			NodeClaims: perigee.NodeClaims{ID: "fra-1", Region: "fra"}, State: perigee.NodeAlive,
			Row: perigee.Row{Node: "fra-1", Revisions: map[perigee.RevisionID]perigee.Warmth{"a1b2c3d4e5f6": perigee.Warm}},
		}}},
	}
}

// static is a function that costs nothing.
type static struct{}

func (static) Invoke(_ context.Context, _ *perigee.Function, _ perigee.RevisionID, w http.ResponseWriter, r *http.Request) (edgeproxy.Result, error) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header()["Content-Type"] = []string{"text/plain; charset=utf-8"}
	w.Header()["Content-Length"] = []string{"13"}
	_, err := io.WriteString(w, text)
	return edgeproxy.Result{Start: edgeproxy.StartWarm}, err
}

func (static) Load(perigee.RevisionID) perigee.Load { return perigee.Load{Slots: 8} }

type nobody struct{}

func (nobody) RoundTrip(context.Context, perigee.NodeID, *http.Request) (*http.Response, perigee.Load, error) {
	return nil, perigee.Load{}, errors.New("there is no other node")
}

func (nobody) RTT(perigee.NodeID) (time.Duration, bool) { return 0, false }

func sign(ca tls.Certificate, der []byte) ([]byte, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: csr.DNSNames, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(12 * time.Hour)}
	leaf, err := x509.CreateCertificate(rand.Reader, tmpl, ca.Leaf, csr.PublicKey, ca.PrivateKey.(*ecdsa.PrivateKey))
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf}), err
}
