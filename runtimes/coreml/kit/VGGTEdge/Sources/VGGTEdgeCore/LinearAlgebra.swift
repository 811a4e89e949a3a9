/// A 3 x 3 matrix by rows, in double precision.
public struct Matrix3: Equatable, Sendable {
    /// The first row.
    public let row0: SIMD3<Double>
    /// The second row.
    public let row1: SIMD3<Double>
    /// The third row.
    public let row2: SIMD3<Double>

    /// - Parameters:
    ///   - row0: The first row.
    ///   - row1: The second row.
    ///   - row2: The third row.
    public init(_ row0: SIMD3<Double>, _ row1: SIMD3<Double>, _ row2: SIMD3<Double>) {
        self.row0 = row0
        self.row1 = row1
        self.row2 = row2
    }

    /// The matrix that changes nothing.
    public static let identity = Matrix3(SIMD3(1, 0, 0), SIMD3(0, 1, 0), SIMD3(0, 0, 1))

    /// Rows and columns exchanged; for a rotation, its inverse.
    public var transposed: Matrix3 {
        Matrix3(
            SIMD3(row0.x, row1.x, row2.x),
            SIMD3(row0.y, row1.y, row2.y),
            SIMD3(row0.z, row1.z, row2.z)
        )
    }

    /// The nine entries, row after row.
    public var rowMajor: [Double] {
        [row0.x, row0.y, row0.z, row1.x, row1.y, row1.z, row2.x, row2.y, row2.z]
    }

    /// Matrix times column vector.
    public static func * (matrix: Matrix3, vector: SIMD3<Double>) -> SIMD3<Double> {
        SIMD3((matrix.row0 * vector).sum(), (matrix.row1 * vector).sum(), (matrix.row2 * vector).sum())
    }

    /// Matrix times matrix.
    public static func * (first: Matrix3, second: Matrix3) -> Matrix3 {
        let columns = second.transposed
        func row(_ row: SIMD3<Double>) -> SIMD3<Double> {
            SIMD3((row * columns.row0).sum(), (row * columns.row1).sum(), (row * columns.row2).sum())
        }
        return Matrix3(row(first.row0), row(first.row1), row(first.row2))
    }
}
