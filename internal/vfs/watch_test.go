package vfs_test

import (
	"errors"
	"syscall"
	"testing"

	"github.com/perigee-edge/perigee/internal/vfs"
	"github.com/perigee-edge/perigee/internal/vfs/simdisk"
)

// TestWatch hears of each kind of step that finds no room, and of nothing else.
func TestWatch(t *testing.T) {
	sim := simdisk.New()
	var heard int
	fsys := vfs.Watch(sim, func(err error) {
		heard++
		if !vfs.NoRoom(err) {
			t.Errorf("heard of %v", err)
		}
	})
	if err := vfs.Replace(fsys, "/a", []byte("x")); err != nil || heard != 0 {
		t.Fatalf("with room: %v, heard %d times", err, heard)
	}
	for _, op := range []string{"create", "append", "write", "sync", "close", "rename", "mkdir", "syncdir"} {
		for _, fault := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EIO} {
			heard = 0
			sim.SetFail(func(at, _ string) error {
				if at == op {
					return fault
				}
				return nil
			})
			err := vfs.Replace(fsys, "/a", []byte("y"))
			if op == "mkdir" {
				err = fsys.MkdirAll("/d")
			} else if op == "append" {
				_, err = fsys.Append("/a")
			}
			if !errors.Is(err, fault) || (heard > 0) != vfs.NoRoom(fault) {
				t.Errorf("%s with %v: %v, heard %d times", op, fault, err, heard)
			}
			sim.SetFail(nil)
		}
	}
}
