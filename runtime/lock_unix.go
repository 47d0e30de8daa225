//go:build unix

package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// dirLock is held by every Runtime on a directory, in whatever process. The system gives it up when a
// process dies.
type dirLock struct{ f *os.File }

// lockDir takes the lock and reports whether nobody else had a share of it: whoever is alone may clean
// up what a dead process left, before it lets others in. Those wait for that here.
func lockDir(dir string) (l dirLock, alone bool, err error) {
	if l.f, err = os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return l, false, fmt.Errorf("lock the code cache: %w", err)
	}
	if unix.Flock(int(l.f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		return l, true, nil
	}
	if err := l.share(); err != nil {
		return l, false, errors.Join(err, l.unlock())
	}
	return l, false, nil
}

// share lets others in.
func (l dirLock) share() error {
	if err := unix.Flock(int(l.f.Fd()), unix.LOCK_SH); err != nil {
		return fmt.Errorf("lock the code cache: %w", err)
	}
	return nil
}

func (l dirLock) unlock() error { return l.f.Close() }

// lockAdmission waits until no other Runtime on the directory admits a module.
func lockAdmission(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "admit.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock admissions: %w", err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("wait for other admissions: %w", context.Cause(ctx))
		}
	}
	return func() { _ = f.Close() }, nil
}
