//go:build !linux

package runtime_test

func hogMain(string) int { return 2 }

func bombsMain(string) int { return 2 }

func pageOut() {}
