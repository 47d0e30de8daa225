//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/perigee-edge/perigee"
)

// TestMain makes this program what the nodes of its labs run.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "lab-sleep":
			fmt.Println("asleep")
			time.Sleep(time.Hour)
		case "lab-fill":
			os.Exit(fill(os.Args[2]))
		}
	}
	goleak.VerifyTestMain(m)
}

// fill writes a file until there is no space.
func fill(path string) int {
	f, err := os.Create(path)
	for n := 0; err == nil; n++ {
		if _, err = f.Write(make([]byte, 4096)); err != nil {
			fmt.Println(n * 4096)
		}
	}
	return 0
}

// start makes a lab of nodes in regions; without the rights it skips, and fails in CI.
func start(t *testing.T, cfg Config, regions ...perigee.Region) (*Lab, []*Node) {
	t.Helper()
	t.Parallel()
	if err := Supported(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("CI must be able to run the lab: %v", err)
		}
		t.Skip(err)
	}
	var err error
	if cfg.Binary, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	if cfg.Seed == 0 {
		cfg.Seed = seed(t)
	}
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	for i, r := range regions {
		if _, err := l.Node("n"+strconv.Itoa(i), r); err != nil {
			t.Fatal(err)
		}
	}
	return l, l.Nodes()
}

func seed(t *testing.T) uint64 {
	s, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	if err != nil {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("SEED=%d", s)
	return s
}

// echo answers UDP packets on port 7 of a node until the test ends.
func echo(t *testing.T, n *Node) {
	t.Helper()
	c, err := n.ListenPacket("0.0.0.0:7")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	go func() {
		defer close(done)
		b := make([]byte, mtu)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(b[:n], from)
		}
	}()
}

// ping returns how long a packet to a node's echo and back takes.
func ping(t *testing.T, from, to *Node, patience time.Duration) (time.Duration, error) {
	t.Helper()
	c, err := from.Dial(t.Context(), "udp", to.Addr().String()+":7")
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	began := time.Now()
	if _, err := c.Write([]byte("ping")); err != nil {
		return 0, err
	}
	_, err = c.Read(make([]byte, mtu))
	return time.Since(began), err
}

func reaches(t *testing.T, from, to *Node) bool {
	t.Helper()
	_, err := ping(t, from, to, time.Second)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s to %s: %v", from.Name, to.Name, err)
	}
	return err == nil
}

// TestDistance holds every pair of six regions against the table: never sooner, and, where the machine lets
// it, at most 2 ms later (the median of all pairs).
func TestDistance(t *testing.T) {
	l, nodes := start(t, Config{}, "fra", "wdc", "syd", "tok", "sao", "fra")
	for _, n := range nodes {
		echo(t, n)
	}
	var pairs sync.WaitGroup
	late := make(chan time.Duration, len(nodes)*len(nodes))
	for i, a := range nodes {
		for _, b := range nodes[i+1:] {
			pairs.Go(func() { late <- lateness(t, a, b, l.RTT(a, b)) })
		}
	}
	pairs.Wait()
	close(late)
	var all []time.Duration
	for d := range late {
		all = append(all, d)
	}
	slices.Sort(all)
	if middle := all[len(all)/2]; middle > 2*time.Millisecond {
		t.Errorf("half of the pairs are more than %v late", middle)
	}
}

// lateness returns by how much the round trip of a pair, the median of a few, is too long at best.
func lateness(t *testing.T, a, b *Node, want time.Duration) time.Duration {
	best := time.Hour
	for range 5 { // other tests may have the processor
		times := make([]time.Duration, 5)
		for i := range times {
			var err error
			if times[i], err = ping(t, a, b, 5*time.Second); err != nil {
				t.Errorf("%s to %s: %v", a.Name, b.Name, err)
				return 0
			}
		}
		slices.Sort(times)
		if times[0] < want {
			t.Errorf("%s to %s after %v, sooner than %v", a.Region, b.Region, times[0], want)
		}
		if best = min(best, times[2]); best < want+2*time.Millisecond {
			break
		}
	}
	t.Logf("%s-%s: want %v, median %v", a.Region, b.Region, want, best)
	return best - want
}

// TestLoss sends packets through a bad link and counts.
func TestLoss(t *testing.T) {
	l, nodes := start(t, Config{}, "fra", "fra")
	a, b := nodes[0], nodes[1]
	l.OneWay(a, b, LinkConfig{Loss: 0.2, Jitter: 3 * time.Millisecond})
	in, err := b.ListenPacket("0.0.0.0:7")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := a.Dial(t.Context(), "udp", b.Addr().String()+":7")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	const sent = 2000
	go func() {
		for i := range sent {
			fmt.Fprint(out, i)
			if i%10 == 0 {
				time.Sleep(time.Millisecond) // not more than the receiver's socket takes
			}
		}
	}()
	got, last := 0, -1
	for buf := make([]byte, mtu); ; {
		_ = in.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		n, _, err := in.ReadFrom(buf)
		if err != nil {
			break
		}
		i, _ := strconv.Atoi(string(buf[:n]))
		if i <= last {
			t.Errorf("packet %d after %d: jitter changes the order", i, last)
		}
		got, last = got+1, i
	}
	if got < sent*74/100 || got > sent*86/100 {
		t.Errorf("%d of %d arrived, want about 80 %%", got, sent)
	}
	if d := a.Traffic().Dropped; d < sent*14/100 || d > sent-int64(got) {
		t.Errorf("%d dropped as counted, %d missed", d, sent-got)
	}
}

// TestBandwidth sends through a thin line over a distance.
func TestBandwidth(t *testing.T) {
	_, nodes := start(t, Config{Bandwidth: 20_000_000}, "fra", "lon")
	l, err := nodes[1].Listen("0.0.0.0:9")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const size = 3 << 20
	go func() {
		c, err := nodes[0].Dial(context.Background(), "tcp", nodes[1].Addr().String()+":9")
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = c.Write(make([]byte, size))
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	began := time.Now()
	if n, err := io.Copy(io.Discard, c); n != size || err != nil {
		t.Fatalf("%d bytes, %v", n, err)
	}
	took := time.Since(began)
	t.Logf("%.1f Mbit/s", size*8/took.Seconds()/1e6)
	if floor := time.Duration(size * 8 * int64(time.Second) / 20_000_000); took < floor {
		t.Errorf("took %v, want %v at least", took, floor)
	} else if took > 4*floor {
		t.Errorf("took %v, want about %v", took, floor)
	}
}

// TestPartition cuts, half cuts, flaps and heals.
func TestPartition(t *testing.T) {
	l, n := start(t, Config{}, "fra", "fra", "fra")
	for _, n := range n {
		echo(t, n)
	}
	l.Partition(n[:1], n[1:])
	if reaches(t, n[0], n[1]) || reaches(t, n[2], n[0]) || !reaches(t, n[1], n[2]) {
		t.Error("the partition is another")
	}
	l.Heal()
	if !reaches(t, n[0], n[1]) || !reaches(t, n[2], n[0]) {
		t.Error("not healed")
	}

	l.Cut(n[:1], n[1:2])
	in, err := n[0].ListenPacket("0.0.0.0:8")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := n[1].Dial(t.Context(), "udp", n[0].Addr().String()+":8")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	fmt.Fprint(out, "one way")
	_ = in.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, _, err := in.ReadFrom(make([]byte, mtu)); err != nil {
		t.Errorf("the open way: %v", err)
	}
	if reaches(t, n[0], n[1]) {
		t.Error("the cut way is open")
	}
	l.Heal()

	l.Flap(n[:1], n[1:2], 30*time.Millisecond)
	open, shut := 0, 0
	for deadline := time.Now().Add(20 * time.Second); (open == 0 || shut == 0) && time.Now().Before(deadline); {
		if _, err := ping(t, n[0], n[1], 20*time.Millisecond); err == nil {
			open++
		} else {
			shut++
		}
	}
	if open == 0 || shut == 0 {
		t.Errorf("%d pings came back and %d did not: want both", open, shut)
	}
}

// TestNAT looks at a node through both kinds of box.
func TestNAT(t *testing.T) {
	l, _ := start(t, Config{}, "fra", "fra")
	outside, stranger := l.Nodes()[0], l.Nodes()[1]
	echo(t, outside)
	one, err := l.NodeWith("one", "fra", NodeConfig{NAT: NATOneToOne})
	if err != nil {
		t.Fatal(err)
	}
	echo(t, one)
	if !reaches(t, one, outside) || !reaches(t, outside, one) {
		t.Error("1:1 lets everything through, both ways")
	}
	cone, err := l.NodeWith("cone", "fra", NodeConfig{NAT: NATCone})
	if err != nil {
		t.Fatal(err)
	}
	echo(t, cone)
	if reaches(t, outside, cone) {
		t.Error("the cone let in somebody to whom nothing was sent")
	}
	inside, err := cone.ListenPacket("0.0.0.0:8")
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	peer, err := outside.ListenPacket("0.0.0.0:8")
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	other, err := stranger.ListenPacket("0.0.0.0:8")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := inside.WriteTo([]byte("hello"), &net.UDPAddr{IP: outside.Addr().AsSlice(), Port: 8}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, mtu)
	_ = peer.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, from, err := peer.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	if want := cone.Addr().String() + ":8"; from.String() != want {
		t.Errorf("seen as %s, want %s", from, want)
	}
	_, _ = other.WriteTo([]byte("uninvited"), from)
	_, _ = peer.WriteTo([]byte("answer"), from)
	_ = inside.SetReadDeadline(time.Now().Add(5 * time.Second))
	k, _, err := inside.ReadFrom(buf)
	if err != nil || string(buf[:k]) != "answer" {
		t.Errorf("got %q, %v; want the answer and nobody else's packet", buf[:k], err)
	}
}

// TestMove gives a node another address.
func TestMove(t *testing.T) {
	_, n := start(t, Config{}, "fra", "fra")
	echo(t, n[0])
	before := n[0].Addr()
	if err := n[0].Move(); err != nil {
		t.Fatal(err)
	}
	if n[0].Addr() == before || !reaches(t, n[1], n[0]) {
		t.Errorf("%s has become %s", before, n[0].Addr())
	}
}

// TestProcess starts, finds and ends programs, and fills a small disk.
func TestProcess(t *testing.T) {
	l, n := start(t, Config{}, "fra")
	if n[0].Running() {
		t.Error("runs before it was started")
	}
	for range 2 {
		if err := n[0].Start("lab-sleep"); err != nil {
			t.Fatal(err)
		}
		if err := n[0].Start("lab-sleep"); err == nil || !n[0].Running() {
			t.Errorf("started twice: %v", err)
		}
		n[0].Kill()
		if n[0].Running() {
			t.Error("runs after it was killed")
		}
	}
	if err := n[0].Start("lab-sleep"); err != nil {
		t.Fatal(err)
	}
	if err := n[0].Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "terminated") {
		t.Errorf("stop: %v", err)
	}
	small, err := l.NodeWith("small", "fra", NodeConfig{Disk: 1 * perigee.MiB})
	if err != nil {
		t.Fatal(err)
	}
	out, err := small.Exec(t.Context(), "lab-fill", "file")
	if got, _ := strconv.Atoi(strings.TrimSpace(out)); err != nil || got < 512<<10 || got > 1<<20 {
		t.Errorf("a disk of 1 MiB took %q, %v", out, err)
	}
}
