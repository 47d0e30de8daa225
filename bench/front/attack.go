package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	attackTime  = 3 * time.Second
	attackers   = 8                      // addresses that an attack comes from
	leastHarm   = 100 * time.Millisecond // of processor time in attackTime: less is not counted as harm
	healthyEach = 20 * time.Millisecond
)

// spent is what an attack cost its sender, and what came back.
type spent struct {
	CPU      time.Duration
	Sent     int64 // bytes on the sockets
	Received int64
	Count    int64 // connections, or packets of a flood without any
}

// attacker is the sender of one attack.
type attacker struct {
	addr                  string
	narrow                bool // connections take little before they are read
	sent, received, count atomic.Int64
}

// beAttacker runs one attack, as a process of its own, and prints what it spent.
func beAttacker(name, addr string) error {
	i := slices.IndexFunc(attacks, func(a attack) bool { return a.name == name })
	if i < 0 {
		return fmt.Errorf("no attack %q", name)
	}
	a := &attacker{addr: addr}
	run, err := attacks[i].prepare(a)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), attackTime)
	defer cancel()
	before := ownCPU()
	a.sent.Store(0)
	a.received.Store(0)
	run(ctx)
	return json.NewEncoder(os.Stdout).Encode(spent{ownCPU() - before, a.sent.Load(), a.received.Load(), a.count.Load()})
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // never fails
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measureAttacks has a real node attacked in each way, while a healthy client asks it 50 times a second.
func measureAttacks(bin, only string) error {
	dir, err := os.MkdirTemp("", "front-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	addr := freeAddr()
	origin, err := start("origin", addr, os.Stderr, self, "-origin", addr)
	if err != nil {
		return err
	}
	defer origin.stop()
	node, err := startNode(filepath.Join(bin, "perigee"), dir, addr)
	if err != nil {
		return err
	}
	defer node.stop()
	idle, err := during(node, func() error { time.Sleep(attackTime); return nil })
	if err != nil {
		return err
	}
	figure("attack_idle_cpu_ms", ms(idle.cpu))
	worst, failed, asked := 0.0, 0, 0
	for _, a := range attacks {
		if only != "" && !regexp.MustCompile(only).MatchString(a.name) {
			continue
		}
		ratio, h, err := strike(node, a.name, idle.cpu)
		if err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
		if !a.valid {
			worst, failed, asked = max(worst, ratio), failed+h.failed, asked+len(h.healthy)
		}
	}
	figure("amplification_max", worst)
	figure("attack_healthy_failed", float64(failed))
	figure("attack_healthy_failed_trials", float64(asked))
	return nil
}

// strike runs one attack and prints its figures. It returns the worse of the two amplifications.
func strike(node *server, name string, idle time.Duration) (ratio float64, h harm, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, h, err
	}
	if err := calm(node); err != nil {
		return 0, h, err
	}
	var s spent
	h, err = during(node, func() error {
		var out, errs bytes.Buffer
		c := exec.Command(self, "-attacker", name, node.addr)
		c.Stdout, c.Stderr = &out, &errs
		if err := c.Run(); err != nil {
			return fmt.Errorf("%w\n%s", err, errs.Bytes())
		}
		return json.Unmarshal(out.Bytes(), &s)
	})
	if err != nil {
		return 0, h, err
	}
	cpu := max(0, h.cpu-time.Duration(float64(idle)*float64(h.took)/float64(attackTime)))
	traffic := float64(s.Received) / float64(max(1, s.Sent))
	if cpu >= leastHarm {
		ratio = float64(cpu) / float64(max(s.CPU, time.Millisecond))
	}
	fmt.Printf("# %s: node %.0f ms, sender %.0f ms; sent %d, received %d bytes; %d connections or packets; memory +%d MiB; healthy client p50 %.1f ms, p99 %.1f ms, %d of %d failed\n", name,
		ms(cpu), ms(s.CPU), s.Sent, s.Received, s.Count, h.memory>>20, ms(h.healthy[len(h.healthy)/2]), ms(h.healthy[len(h.healthy)*99/100]), h.failed, len(h.healthy))
	figure("amplification_"+name+"_cpu", ratio)
	figure("amplification_"+name+"_bytes", traffic)
	return max(ratio, traffic), h, nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// harm is what a node spent, and what others saw of it.
type harm struct {
	cpu, took time.Duration
	memory    int64 // bytes that its resident memory grew by, at most
	healthy   []time.Duration
	failed    int
}

// calm waits until a node has done what an attack left it with.
func calm(node *server) error {
	for limit := time.Now().Add(time.Minute); time.Now().Before(limit); {
		before, err := cpuOf(node.cmd.Process.Pid)
		if err != nil {
			return err
		}
		time.Sleep(500 * time.Millisecond)
		after, err := cpuOf(node.cmd.Process.Pid)
		if err != nil {
			return err
		}
		if after-before <= 50*time.Millisecond {
			return nil
		}
	}
	return errors.New("the node still computes a minute after the attack")
}

// during measures a node and a healthy client while f runs.
func during(node *server, f func() error) (h harm, err error) {
	pid := node.cmd.Process.Pid
	before, err := cpuOf(pid)
	if err != nil {
		return h, err
	}
	memory := residentOf(pid)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.healthy, h.failed = healthyClient(ctx, node.addr, func() { h.memory = max(h.memory, residentOf(pid)-memory) })
	}()
	began := time.Now()
	err = f()
	stop()
	<-done
	if err != nil {
		return h, err
	}
	after, err := cpuOf(pid)
	h.cpu, h.took = after-before, time.Since(began)
	return h, err
}

// cpuOf returns what a process and its children that ended have used of the processors.
func cpuOf(pid int) (time.Duration, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, fmt.Errorf("the node ended: %w", err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	ticks := 0
	for _, s := range f[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.Atoi(s)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100, nil
}

func residentOf(pid int) int64 {
	b, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "statm"))
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	n, _ := strconv.ParseInt(f[1], 10, 64)
	return n * int64(os.Getpagesize())
}

// sender returns the address that the i-th connection of an attack comes from. The healthy client has another.
func sender(i int64) net.IP { return net.IPv4(127, 0, 1, byte(1+i%attackers)) }
