//go:build !unix

package runtime

import "context"

// dirLock does nothing where there are no such locks: there a directory belongs to one Runtime.
type dirLock struct{}

func lockDir(string) (dirLock, bool, error) { return dirLock{}, true, nil }

func (dirLock) share() error { return nil }

func (dirLock) unlock() error { return nil }

func lockAdmission(context.Context, string) (unlock func(), err error) { return func() {}, nil }
