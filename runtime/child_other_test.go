//go:build !linux

package runtime_test

func hogMain(string) int { return 2 }
