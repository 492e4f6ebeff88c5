/// GPT-2's printable letter for each byte: itself where printable, else the next code point from 256 on.
enum ByteLetters {
    /// The letter of each byte, in UTF-8.
    static let letters: [[UInt8]] = scalars.map { Array(String($0).utf8) }

    private static let scalars: [Unicode.Scalar] = {
        var next: UInt32 = 256
        return (UInt32(0)...255).map { byte in
            if (0x21...0x7E).contains(byte) || (0xA1...0xAC).contains(byte) || (0xAE...0xFF).contains(byte) {
                return Unicode.Scalar(byte)!
            }
            defer { next += 1 }
            return Unicode.Scalar(next)!
        }
    }()

    private static let bytes = Dictionary(uniqueKeysWithValues: scalars.enumerated().map { ($1, UInt8($0)) })

    /// The bytes that a token's text stands for; a text that is not spelt in letters stands for itself.
    static func bytes(of token: [UInt8]) -> [UInt8] {
        var spelt: [UInt8] = []
        for scalar in String(decoding: token, as: UTF8.self).unicodeScalars {
            guard let byte = bytes[scalar] else { return token }
            spelt.append(byte)
        }
        return spelt
    }
}
