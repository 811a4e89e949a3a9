/// Percentiles without sorting: only the part around the wanted rank is put in order.
enum Selection {
    /// The percentile at a share from 0 to 1, linearly interpolated between ranks. Reorders the values.
    ///
    /// - Parameter values: At least one, all finite.
    static func percentile(_ share: Double, of values: UnsafeMutableBufferPointer<Double>) -> Double {
        let position = share * Double(values.count - 1)
        let below = Int(position.rounded(.down))
        let low = select(below, of: values)
        guard below + 1 < values.count else { return low }
        // Everything behind the selected rank is at least as large: the next rank is the smallest of it.
        var high = values[below + 1]
        for index in (below + 2)..<max(values.count, below + 2) where values[index] < high { high = values[index] }
        return low + (high - low) * (position - Double(below))
    }

    /// The value of a rank; smaller ones lie before it afterwards, larger ones behind it.
    private static func select(_ rank: Int, of values: UnsafeMutableBufferPointer<Double>) -> Double {
        var (low, high) = (0, values.count - 1)
        var rounds = 0
        while low < high {
            rounds += 1
            // Many rounds mean unlucky pivots: sorting what is left bounds the time.
            if high - low < 32 || rounds > 64 {
                var left = UnsafeMutableBufferPointer(rebasing: values[low...high])
                left.sort()
                break
            }
            let pivot = median(values[low], values[low + (high - low) / 2], values[high])
            var (left, right) = (low, high)
            while left <= right {
                while values[left] < pivot { left += 1 }
                while values[right] > pivot { right -= 1 }
                if left <= right {
                    values.swapAt(left, right)
                    left += 1
                    right -= 1
                }
            }
            if rank <= right { high = right } else if rank >= left { low = left } else { break }
        }
        return values[rank]
    }

    private static func median(_ first: Double, _ second: Double, _ third: Double) -> Double {
        max(min(first, second), min(max(first, second), third))
    }
}
