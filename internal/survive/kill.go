package survive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/node"
)

// Kills is the outcome of a campaign of SIGKILLs.
type Kills struct {
	Kills  int
	Acked  int // writes that were acknowledged before them
	Lost   int // of them, those that were not there afterwards
	Why    []string
	Starts []time.Duration // from the process to an answer on its socket, sorted
}

const (
	writers   = 3 // at the same time
	codes     = 8 // regions of each writer
	killSpan  = 150 * time.Millisecond
	startTime = 30 * time.Second
)

// KillNode runs a real node of the program perigee in dir, lets clients write to it, and kills it at random
// moments: n times, some of them while it starts. After each start everything acknowledged must be there.
func KillNode(ctx context.Context, perigee, dir string, seed uint64, n int, log io.Writer) (Kills, error) {
	k := &killing{perigee: perigee, dir: dir, log: log, rng: rand.New(rand.NewPCG(seed, 0)), acked: map[string]int{}}
	if err := k.found(ctx); err != nil {
		return k.Kills, err
	}
	for k.Kills.Kills < n {
		if err := k.round(ctx); err != nil {
			return k.Kills, fmt.Errorf("after %d kills: %w", k.Kills.Kills, err)
		}
	}
	slices.Sort(k.Starts)
	return k.Kills, nil
}

type killing struct {
	Kills
	perigee, dir string
	log          io.Writer
	rng          *rand.Rand
	operator     *node.Person

	mu    sync.Mutex     // guards what follows
	tried int            // writes; the number of each is its region's latitude
	acked map[string]int // by region, the last one
}

func (k *killing) found(ctx context.Context) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	init := exec.CommandContext(ctx, k.perigee, "cluster", "init", "--region", "fra", "--listen", fmt.Sprintf("127.0.0.1:%d", port), "--https", "", "--http", "", "--admin-http", "")
	init.Dir, init.Stdout, init.Stderr = k.dir, k.log, k.log
	if err := init.Run(); err != nil {
		return fmt.Errorf("make a cluster: %w", err)
	}
	key, err := identity.LoadKey(filepath.Join(k.dir, "operator.key"))
	if err != nil {
		return err
	}
	data := node.Dir(filepath.Join(k.dir, "data"))
	genesis, err := os.ReadFile(filepath.Join(string(data), "genesis.rec"))
	if err != nil {
		return err
	}
	k.operator, err = node.NewPerson(node.NewSocketClient(node.SocketPath(data.Socket())), key, genesis)
	return err
}

// freePort returns a UDP port that is free now.
func freePort() (int, error) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).Port, nil
}

// round starts the node, writes, and kills it; every fourth time before it has answered.
func (k *killing) round(ctx context.Context) error {
	began := time.Now()
	c := exec.CommandContext(ctx, k.perigee, "node", "run")
	c.Dir, c.Stdout, c.Stderr = k.dir, k.log, k.log
	if err := c.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	kill := func() {
		_ = c.Process.Kill()
		<-ended
		k.Kills.Kills++
	}
	if k.rng.IntN(4) == 0 && len(k.Starts) > 0 {
		time.Sleep(time.Duration(k.rng.Int64N(int64(2 * k.Starts[0]))))
		kill()
		return nil
	}
	for {
		_, err := k.operator.Status(ctx)
		if err == nil {
			break
		}
		select {
		case err := <-ended:
			return fmt.Errorf("the node ended by itself: %w", err)
		case <-time.After(2 * time.Millisecond):
		}
		if time.Since(began) > startTime {
			kill()
			return fmt.Errorf("no answer in %v: %w", startTime, err)
		}
	}
	k.Starts = append(k.Starts, time.Since(began))
	if err := k.check(ctx); err != nil {
		kill()
		return err
	}
	writing, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	errs := make([]error, writers)
	for w := range writers {
		wg.Go(func() { errs[w] = k.write(writing, w) })
	}
	time.Sleep(time.Duration(k.rng.Int64N(int64(killSpan))))
	kill()
	stop()
	wg.Wait()
	return errors.Join(errs...)
}

// write adds regions until the node is gone.
func (k *killing) write(ctx context.Context, w int) error {
	for i := 0; ctx.Err() == nil; i++ {
		code := fmt.Sprintf("w%d-%d", w, i%codes)
		k.mu.Lock()
		k.tried++
		number := k.tried
		k.mu.Unlock()
		_, err := k.operator.AddRegion(ctx, perigee.RegionInfo{Code: perigee.Region(code), Point: perigee.Point{Lat: latitude(number)}})
		if err != nil {
			return nil // killed: it may be there or not
		}
		k.mu.Lock()
		k.acked[code] = number
		k.Acked++
		k.mu.Unlock()
	}
	return nil
}

func latitude(number int) float64 { return float64(number) / 1e5 }
func numberOf(lat float64) int    { return int(lat*1e5 + 0.5) }

// check looks for the last acknowledged write to each region, or a later one that was under way.
func (k *killing) check(ctx context.Context) error {
	list, err := k.operator.Regions(ctx)
	if err != nil {
		return err
	}
	there := map[string]int{}
	for _, r := range list {
		there[string(r.Code)] = numberOf(r.Point.Lat)
	}
	for code, number := range k.acked {
		if there[code] < number || there[code] > k.tried {
			k.Lost++
			k.Why = append(k.Why, fmt.Sprintf("after kill %d: region %s has write %d, and %d was acknowledged", k.Kills.Kills, code, there[code], number))
			k.acked[code] = there[code] // once is enough
		}
	}
	return nil
}
