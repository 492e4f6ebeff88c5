import Foundation

private let bufferBytes = 1024 * 1024

/// The length of a plain file; nil where there is none.
func lengthOfFile(_ place: URL) -> Int? {
    let found = try? FileManager.default.attributesOfItem(atPath: place.resolvingSymlinksInPath().path)
    guard let found, found[.type] as? FileAttributeType == .typeRegular else { return nil }
    return (found[.size] as? NSNumber)?.intValue
}

/// The bytes of a file that should be small.
func readBytes(_ place: URL, atMost limit: Int) throws -> [UInt8] {
    guard let length = lengthOfFile(place) else {
        throw EdgeError(.artifact, "\(place.lastPathComponent): is missing; copy it again")
    }
    guard length <= limit else {
        throw EdgeError(.artifact, "\(place.lastPathComponent): \(length) bytes, more than the \(limit) it may have")
    }
    do {
        return Array(try Data(contentsOf: place))
    } catch {
        throw unreadable(place, error)
    }
}

/// Length and SHA-256 of a file, read piece by piece, each of which `onPiece` gets the length of.
func digest(of place: URL, onPiece: (Int) throws -> Void) throws -> (bytes: Int, sha256: String) {
    try digest(of: place, copyingTo: nil, onPiece: onPiece)
}

/// The same, with a copy made on the way.
func digest(
    of place: URL, copyingTo copy: FileHandle?, onPiece: (Int) throws -> Void
) throws -> (bytes: Int, sha256: String) {
    let file: FileHandle
    do {
        file = try FileHandle(forReadingFrom: place)
    } catch {
        throw unreadable(place, error)
    }
    defer { try? file.close() }
    var hash = Hash()
    var bytes = 0
    while let piece = try file.read(upToCount: bufferBytes), !piece.isEmpty {
        hash.update(piece)
        try copy?.write(contentsOf: piece)
        bytes += piece.count
        try onPiece(piece.count)
    }
    return (bytes, hash.hex)
}

func unreadable(_ place: URL, _ error: any Error) -> EdgeError {
    EdgeError(
        .fileMismatch, "\(place.lastPathComponent): cannot be read (\(error.localizedDescription)); copy it again")
}
