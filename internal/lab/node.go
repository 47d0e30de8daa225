//go:build linux

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-edge/perigee"
)

// Node is a machine of the lab. Its methods are safe for concurrent use.
type Node struct {
	Name   string
	Region perigee.Region
	Dir    string // working directory of what runs; seen only there if the node has a disk of its own

	lab  *Lab
	ns   *namespace
	port *port

	mu      sync.Mutex // guards process
	process *process   // nil = none was started
}

// process is the program that runs in the background.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // why, after done
}

// build makes the namespace, its device and the directory.
func (n *Node) build(c NodeConfig) (err error) {
	if err := os.MkdirAll(n.Dir, 0o700); err != nil {
		return err
	}
	if n.ns, err = newNamespace(c.Disk > 0); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			n.ns.close()
		}
	}()
	private, public := n.lab.addresses()
	if c.NAT == NoNAT {
		private = public
	}
	line := line{rate: n.lab.cfg.Bandwidth, queue: n.lab.cfg.Queue}
	n.port = &port{region: n.Region, private: private, public: public, up: line, down: line, noUDP: c.NoUDP}
	if c.NAT != NoNAT {
		n.port.box = newBox(c.NAT, private, public)
	}
	if err := n.ns.do(func() error {
		if c.Disk > 0 {
			if err := unix.Mount("tmpfs", n.Dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", c.Disk)); err != nil {
				return fmt.Errorf("give it a disk: %w", err)
			}
		}
		n.port.tun, err = openTUN()
		return err
	}); err != nil {
		return err
	}
	if err := n.port.tun.up(n.ns, private); err != nil {
		n.port.tun.file.Close()
		return err
	}
	n.lab.net.plug(n.port)
	return nil
}

// Addr returns the address at which other nodes see this one.
func (n *Node) Addr() netip.Addr {
	n.lab.net.mu.Lock()
	defer n.lab.net.mu.Unlock()
	return n.port.public
}

// Move gives the node another address, as a machine gets one that boots in another place. It is for nodes
// without NAT.
func (n *Node) Move() error {
	from := n.Addr()
	_, to := n.lab.addresses()
	if err := n.port.tun.move(n.ns, from, to); err != nil {
		return fmt.Errorf("lab: move %s: %w", n.Name, err)
	}
	n.lab.net.readdress(n.port, to)
	return nil
}

// SetBandwidth changes the node's line, both ways; 0 = unlimited.
func (n *Node) SetBandwidth(bits int64) {
	n.lab.net.mu.Lock()
	defer n.lab.net.mu.Unlock()
	n.port.up.rate, n.port.down.rate = bits, bits
}

// DropUDP has a firewall before the node drop all UDP, in both directions, or lets it through again.
func (n *Node) DropUDP(drop bool) {
	n.lab.net.mu.Lock()
	defer n.lab.net.mu.Unlock()
	n.port.noUDP = drop
}

// Traffic returns what the node has sent and received so far.
func (n *Node) Traffic() Traffic {
	n.lab.net.mu.Lock()
	defer n.lab.net.mu.Unlock()
	return n.port.traffic
}

// LogPath is the file with all that the node's programs in the background print.
func (n *Node) LogPath() string { return filepath.Join(n.lab.cfg.Dir, n.Name+".log") }

// Start runs the lab's program with these arguments in the background. It must not run already.
func (n *Node) Start(args ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.process != nil && !n.process.ended() {
		return fmt.Errorf("lab: start %s: it runs", n.Name)
	}
	log, err := os.OpenFile(n.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p := &process{cmd: n.command(context.Background(), n.lab.cfg.Binary, args), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := n.ns.do(p.cmd.Start); err != nil {
		return fmt.Errorf("lab: start %s: %w", n.Name, err)
	}
	n.process = p
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
	return nil
}

func (n *Node) command(ctx context.Context, program string, args []string) *exec.Cmd {
	c := exec.CommandContext(ctx, program, args...)
	c.Dir = n.Dir
	home := filepath.Join(n.Dir, "home")
	c.Env = append(append(os.Environ(), "HOME="+home, "PERIGEE_HOME="+home, "PATH="+filepath.Dir(n.lab.cfg.Binary)+":"+os.Getenv("PATH")), n.lab.cfg.Env...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // with the namespace's thread
	c.WaitDelay = 2 * time.Second                                    // what it started may keep its outputs open
	return c
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Running reports whether the program in the background runs.
func (n *Node) Running() bool { return n.PID() != 0 }

// PID returns the process in the background, 0 if none runs.
func (n *Node) PID() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.process == nil || n.process.ended() {
		return 0
	}
	return n.process.cmd.Process.Pid
}

// Kill ends the program in the background without a word (SIGKILL) and waits for that. Without one it does
// nothing.
func (n *Node) Kill() {
	_ = n.end(context.Background(), syscall.SIGKILL)
}

// endStrays ends what still runs in the node's directory: the successors of its program are no children of the lab.
func (n *Node) endStrays() {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if cwd, _ := os.Readlink(link); err == nil && pid != os.Getpid() && cwd == n.Dir {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// Stop asks the program in the background to end (SIGTERM), waits for it, and returns what it failed with.
func (n *Node) Stop(ctx context.Context) error { return n.end(ctx, syscall.SIGTERM) }

// Wait waits until the program in the background has ended by itself, and returns what it failed with.
func (n *Node) Wait(ctx context.Context) error { return n.end(ctx, 0) }

func (n *Node) end(ctx context.Context, sig syscall.Signal) error {
	n.mu.Lock()
	p := n.process
	n.mu.Unlock()
	if p == nil {
		return nil
	}
	if sig != 0 {
		if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("lab: %s still runs: %w", n.Name, context.Cause(ctx))
	}
}

// Exec runs the lab's program with these arguments on the node until it ends. The error, if any, has what
// it printed on standard error.
func (n *Node) Exec(ctx context.Context, args ...string) (stdout string, err error) {
	return n.Run(ctx, n.lab.cfg.Binary, args...)
}

// Run is Exec with any program.
func (n *Node) Run(ctx context.Context, program string, args ...string) (stdout string, err error) {
	var out, warn bytes.Buffer
	c := n.command(ctx, program, args)
	c.Stdout, c.Stderr = &out, &warn
	if err := n.ns.do(c.Start); err != nil {
		return "", fmt.Errorf("lab: on %s: %w", n.Name, err)
	}
	if err := c.Wait(); err != nil {
		return out.String(), fmt.Errorf("on %s: %v: %w: %s", n.Name, args, err, bytes.TrimSpace(warn.Bytes()))
	}
	return out.String(), nil
}

// Dial connects from the node to an IP address and port, over the network or on the node itself, or to a
// Unix socket there.
func (n *Node) Dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	enter := n.ns.visit
	if network == "unix" {
		enter = n.ns.do // sees the node's own disk, and takes no time
	}
	err = enter(func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// ListenPacket opens a UDP socket on the node.
func (n *Node) ListenPacket(addr string) (conn net.PacketConn, err error) {
	err = n.ns.do(func() error {
		conn, err = net.ListenPacket("udp4", addr)
		return err
	})
	return conn, err
}

// Listen opens a TCP socket on the node.
func (n *Node) Listen(addr string) (l net.Listener, err error) {
	err = n.ns.do(func() error {
		l, err = net.Listen("tcp4", addr)
		return err
	})
	return l, err
}
