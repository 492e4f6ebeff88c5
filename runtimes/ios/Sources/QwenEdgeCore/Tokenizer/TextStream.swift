/// Tokens in, text out: what was given out never changes, and all of it together is the text of all tokens.
///
/// A token may end in the middle of a character, so text comes out only when later tokens cannot change it any more.
public struct TextStream {
    /// A character of four bytes can lack its last; each byte shows as one replacement or less.
    private static let mostPending = 3
    private static let replacement: Unicode.Scalar = "\u{FFFD}"

    private let tokenizer: Tokenizer
    private let special: Bool
    private var window: [Int] = []
    private var given = 0  // code points of the window's text already given out

    public init(_ tokenizer: Tokenizer, special: Bool = false) {
        self.tokenizer = tokenizer
        self.special = special
    }

    /// The text that this token completes: often one word, sometimes nothing.
    public mutating func push(_ token: Int) -> String {
        window.append(token)
        let text = self.text
        let pending = min(text.reversed().prefix { $0 == Self.replacement }.count, Self.mostPending)
        let new = text[given..<max(given, text.count - pending)]
        given += new.count
        if pending == 0 { clear() }
        return String(String.UnicodeScalarView(new))
    }

    /// What is still held back, at the end of the tokens.
    public mutating func flush() -> String {
        defer { clear() }
        return String(String.UnicodeScalarView(text[given...]))
    }

    private var text: [Unicode.Scalar] {
        Array(tokenizer.decode(window, special: special).unicodeScalars)
    }

    private mutating func clear() {
        window = []
        given = 0
    }
}
