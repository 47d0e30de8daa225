package survive

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/node"
	"github.com/perigee-edge/perigee/usage"
)

// NodeRots is the outcome of bits flipped in all files of a real node.
type NodeRots struct {
	Rots
	Files    int
	Unserved int // of the flips, those after which the function did not answer: without a peer there is no other copy of a bundle
}

// rotten is a real node whose directory is copied and spoilt again and again.
type rotten struct {
	NodeRots
	perigee string
	tmp     string // holds "good", as the node left it, and "bad", the copy
	log     io.Writer
	https   string
	roots   *x509.CertPool
	answer  string
	live    perigee.RevisionID
	usage   map[usage.Key]usage.Counts
}

// RotNode runs a real node of the program perigee below tmp, stops it, and flips one bit of a file of its
// directory at a time, at every 64th byte but at most perFile times a file, evenly. After each the node starts, must
// say nothing wrong of functions, regions and usage, and answers a request over TLS.
func RotNode(ctx context.Context, program, tmp string, perFile int, log io.Writer) (NodeRots, error) {
	r := &rotten{perigee: program, tmp: tmp, log: log, answer: "as it was written", usage: map[usage.Key]usage.Counts{}}
	if err := r.found(ctx); err != nil {
		return r.NodeRots, err
	}
	data := filepath.Join(r.tmp, "good", "data")
	err := filepath.WalkDir(data, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		info, err := d.Info()
		if err != nil || info.Size() == 0 {
			return err
		}
		r.Files++
		rel, err := filepath.Rel(data, name)
		if err != nil {
			return err
		}
		places := (info.Size() + 63) / 64
		tries := min(places, int64(perFile))
		for i := range tries {
			at := 64 * (i * places / tries)
			if err := r.flip(ctx, rel, at, uint(at/64%8)); err != nil {
				return fmt.Errorf("%s, byte %d: %w", rel, at, err)
			}
		}
		return nil
	})
	return r.NodeRots, err
}

// found makes the node, has it do a bit of everything, and stops it.
func (r *rotten) found(ctx context.Context) error {
	mesh, err := freePort()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	r.https = l.Addr().String()
	l.Close()
	good := filepath.Join(r.tmp, "good")
	if err := os.Mkdir(good, 0o700); err != nil {
		return err
	}
	init := exec.CommandContext(ctx, r.perigee, "cluster", "init", "--region", "fra", "--listen", fmt.Sprintf("127.0.0.1:%d", mesh), "--https", r.https, "--http", "", "--admin-http", "")
	init.Dir, init.Stdout, init.Stderr = good, r.log, r.log
	if err := init.Run(); err != nil {
		return fmt.Errorf("make a cluster: %w", err)
	}
	stop, err := r.run(ctx, good)
	if err != nil {
		return err
	}
	if err := r.fill(ctx, good); err != nil {
		stop()
		return err
	}
	if err := stop(); err != nil {
		return err
	}
	// Once more, so that all is there that a second start finds.
	if stop, err = r.run(ctx, good); err != nil {
		return err
	}
	if _, err := r.ask(ctx); err != nil {
		return errors.Join(err, stop())
	}
	if err := r.count(ctx, good); err != nil {
		return errors.Join(err, stop())
	}
	return stop()
}

func (r *rotten) client(dir string) *node.Client {
	return node.NewSocketClient(node.SocketPath(node.Dir(filepath.Join(dir, "data")).Socket()))
}

// run starts a node and waits until it answers. stop ends it in good order.
func (r *rotten) run(ctx context.Context, dir string) (stop func() error, err error) {
	c := exec.CommandContext(ctx, r.perigee, "node", "run")
	c.Dir, c.Stdout, c.Stderr = dir, r.log, r.log
	if err := c.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	stop = func() error {
		_ = c.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			return err
		case <-time.After(startTime):
			_ = c.Process.Kill()
			return errors.Join(errors.New("it did not stop"), <-ended)
		}
	}
	for began := time.Now(); ; {
		if _, err := r.client(dir).Status(ctx); err == nil {
			return stop, nil
		}
		select {
		case err := <-ended:
			return nil, fmt.Errorf("the node ended by itself: %w", err)
		case <-time.After(5 * time.Millisecond): // between two looks at another process
		}
		if time.Since(began) > startTime {
			return nil, errors.Join(fmt.Errorf("no answer in %v", startTime), stop())
		}
	}
}

// fill deploys a function and asks it.
func (r *rotten) fill(ctx context.Context, dir string) error {
	genesis, err := os.ReadFile(filepath.Join(dir, "data", "genesis.rec"))
	if err != nil {
		return err
	}
	key, err := identity.LoadKey(filepath.Join(dir, "operator.key"))
	if err != nil {
		return err
	}
	p, err := node.NewPerson(r.client(dir), key, genesis)
	if err != nil {
		return err
	}
	r.roots = x509.NewCertPool()
	rec, err := record.Decode(genesis)
	if err != nil {
		return err
	}
	opened, err := rec.Open()
	if err != nil {
		return err
	}
	root, err := x509.ParseCertificate(opened.(*record.Genesis).WebRoot)
	if err != nil {
		return err
	}
	r.roots.AddCert(root)
	src := filepath.Join(r.tmp, "src")
	manifest := []byte("name = \"f\"\nwasm = \"a.wasm\"\n[[route]]\nhost = \"f.example.com\"\n")
	if err := errors.Join(os.Mkdir(src, 0o700), os.WriteFile(filepath.Join(src, "perigee.toml"), manifest, 0o600), os.WriteFile(filepath.Join(src, "a.wasm"), wasmtest.Answer(r.answer), 0o600)); err != nil {
		return err
	}
	m, err := bundle.LoadManifest(src)
	if err != nil {
		return err
	}
	a, err := bundle.Pack(src, m)
	if err != nil {
		return err
	}
	body := a.Open()
	defer body.Close()
	d, err := p.DeployWith(ctx, node.DeployOptions{}, m, a.Digest, perigee.Bytes(a.Size), body, nil)
	if err != nil {
		return err
	}
	r.live = d.Revision
	if _, err := p.AddRegion(ctx, perigee.RegionInfo{Code: "xxa", Point: perigee.Point{Lat: 12}}); err != nil {
		return err
	}
	deadline := time.Now().Add(startTime)
	for { // until it has passed its trial
		fn, _, err := p.Function(ctx, "f")
		if err == nil && fn.Ready() && fn.Rollout == nil {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the function is not everywhere: %+v, %w", fn, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	_, err = r.ask(ctx)
	return err
}

// ask sends the function a request over TLS, for some seconds until it is there, and returns the answer.
func (r *rotten) ask(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: r.roots},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, r.https)
		},
	}}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://f.example.com/", nil)
		if err != nil {
			return "", err
		}
		resp, err := client.Do(req)
		if err == nil {
			var b []byte
			b, err = io.ReadAll(resp.Body)
			resp.Body.Close()
			if err == nil && resp.StatusCode == http.StatusOK {
				return string(b), nil
			}
			err = errors.Join(err, fmt.Errorf("%d %.200q", resp.StatusCode, b))
		}
		select {
		case <-ctx.Done():
			return "", err
		case <-time.After(20 * time.Millisecond): // between two requests
		}
	}
}

// count notes what usage was counted until now.
func (r *rotten) count(ctx context.Context, dir string) error {
	u, err := r.client(dir).Usage(ctx, "")
	for _, row := range u.Rows {
		r.usage[row.Key] = row.Counts
	}
	return err
}

// flip spoils one bit of a copy, and looks at the node that starts on it.
func (r *rotten) flip(ctx context.Context, rel string, at int64, bit uint) error {
	good, bad := filepath.Join(r.tmp, "good"), filepath.Join(r.tmp, "bad")
	var untrue *tls.CertificateVerificationError
	if err := errors.Join(os.RemoveAll(bad), copyTree(good, bad)); err != nil {
		return err
	}
	if err := flipBit(filepath.Join(bad, "data", rel), at, bit); err != nil {
		return err
	}
	r.Flips++
	note := func(count *int, format string, args ...any) {
		*count++
		if len(r.Why) < 40 {
			r.Why = append(r.Why, fmt.Sprintf("%s, byte %d: ", rel, at)+fmt.Sprintf(format, args...))
		}
	}
	stop, err := r.run(ctx, bad)
	if err != nil {
		note(&r.Crashes, "%v", err)
		return ctx.Err()
	}
	if wrong := r.wrong(ctx, bad); wrong != "" {
		note(&r.Served, "%s", wrong)
	}
	switch got, err := r.ask(ctx); {
	case errors.As(err, &untrue):
		note(&r.Served, "%v", err)
	case err != nil:
		note(&r.Unserved, "%v", err)
	case got != r.answer:
		note(&r.Served, "it answers %q", got)
	}
	if err := stop(); err != nil {
		note(&r.Crashes, "%v", err)
	}
	return ctx.Err()
}

// wrong says what the node shows that was never so; "" = nothing.
func (r *rotten) wrong(ctx context.Context, dir string) string {
	c := r.client(dir)
	functions, err := c.Functions(ctx)
	if err != nil {
		return err.Error()
	}
	for _, f := range functions {
		if f.Name != "f" || f.Live.ID != r.live {
			return fmt.Sprintf("function %s at revision %s", f.Name, f.Live.ID)
		}
	}
	regions, err := c.Regions(ctx)
	if err != nil {
		return err.Error()
	}
	if i := slices.IndexFunc(regions, func(i perigee.RegionInfo) bool { return i.Code == "xxa" }); i >= 0 && regions[i].Point.Lat != 12 {
		return fmt.Sprintf("region xxa is at %v", regions[i].Point)
	}
	u, err := c.Usage(ctx, "")
	if err != nil {
		return err.Error()
	}
	for _, row := range u.Rows {
		if row.Counts != r.usage[row.Key] {
			return fmt.Sprintf("usage of %+v is %+v, was %+v", row.Key, row.Counts, r.usage[row.Key])
		}
	}
	return ""
}

func flipBit(name string, at int64, bit uint) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	b[0] ^= 1 << bit
	if err == nil {
		_, err = f.WriteAt(b[:], at)
	}
	return errors.Join(err, f.Close())
}

// copyTree copies regular files and directories.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := to + strings.TrimPrefix(name, from)
		info, err := d.Info()
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return os.Mkdir(target, info.Mode().Perm())
		case !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(target, b, info.Mode().Perm())
	})
}
