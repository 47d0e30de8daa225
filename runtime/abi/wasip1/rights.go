package wasip1

// The rights of a descriptor, by the function that needs them.
const (
	rightDatasync uint64 = 1 << iota
	rightRead
	rightSeek
	rightSetFlags
	rightSync
	rightTell
	rightWrite
	rightAdvise
	rightAllocate
	rightCreateDirectory
	rightCreateFile
	rightLinkSource
	rightLinkTarget
	rightOpen
	rightReaddir
	rightReadlink
	rightRenameSource
	rightRenameTarget
	rightPathStat
	rightPathSetSize
	rightPathSetTimes
	rightStat
	rightSetSize
	rightSetTimes
	rightSymlink
	rightRemoveDirectory
	rightUnlink
	rightPoll
	rightShutdown
	rightAccept

	rightsAll = rightAccept<<1 - 1
)

// What applies to each kind of descriptor. A directory has the rights to change what is in it, though
// nothing can be changed: the answer is then that the file system is read-only, not that the program
// lacks a capability.
const (
	streamRights = rightSetFlags | rightStat | rightPoll
	fileRights   = rightDatasync | rightRead | rightSeek | rightSetFlags | rightSync | rightTell | rightAdvise | rightStat | rightSetTimes | rightPoll
	dirRights    = rightDatasync | rightSetFlags | rightSync | rightCreateDirectory | rightCreateFile | rightLinkSource | rightLinkTarget |
		rightOpen | rightReaddir | rightReadlink | rightRenameSource | rightRenameTarget | rightPathStat | rightPathSetSize |
		rightPathSetTimes | rightStat | rightSetTimes | rightSymlink | rightRemoveDirectory | rightUnlink
)
