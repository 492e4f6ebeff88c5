/// A binary heap that gives back the smallest first.
struct Heap<Element: Comparable> {
    private var items: [Element] = []

    mutating func push(_ item: Element) {
        items.append(item)
        var at = items.count - 1
        while at > 0, items[at] < items[(at - 1) / 2] {
            items.swapAt(at, (at - 1) / 2)
            at = (at - 1) / 2
        }
    }

    mutating func pop() -> Element? {
        guard let smallest = items.first else { return nil }
        items.swapAt(0, items.count - 1)
        items.removeLast()
        var at = 0
        while let child = smallerChild(of: at), items[child] < items[at] {
            items.swapAt(at, child)
            at = child
        }
        return smallest
    }

    private func smallerChild(of at: Int) -> Int? {
        let left = 2 * at + 1
        guard left < items.count else { return nil }
        return left + 1 < items.count && items[left + 1] < items[left] ? left + 1 : left
    }
}
