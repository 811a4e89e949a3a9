package io.vggtedge

/**
 * Three numbers: a point or a direction.
 *
 * @property x Along the first axis.
 * @property y Along the second axis.
 * @property z Along the third axis.
 */
public data class Vector3(public val x: Double, public val y: Double, public val z: Double) {
    /** Sum, number by number. */
    public operator fun plus(other: Vector3): Vector3 = Vector3(x + other.x, y + other.y, z + other.z)

    /** Difference, number by number. */
    public operator fun minus(other: Vector3): Vector3 = Vector3(x - other.x, y - other.y, z - other.z)

    /** The other way round. */
    public operator fun unaryMinus(): Vector3 = Vector3(-x, -y, -z)

    /** As far in the same direction, times [factor]. */
    public operator fun times(factor: Double): Vector3 = Vector3(x * factor, y * factor, z * factor)

    /** The scalar product. */
    public infix fun dot(other: Vector3): Double = x * other.x + y * other.y + z * other.z
}

/**
 * A 3 x 3 matrix by rows, in double precision.
 *
 * @property row0 The first row.
 * @property row1 The second row.
 * @property row2 The third row.
 */
public data class Matrix3(public val row0: Vector3, public val row1: Vector3, public val row2: Vector3) {
    /** Rows and columns exchanged; for a rotation, its inverse. */
    public val transposed: Matrix3
        get() =
            Matrix3(
                Vector3(row0.x, row1.x, row2.x),
                Vector3(row0.y, row1.y, row2.y),
                Vector3(row0.z, row1.z, row2.z),
            )

    /** The nine entries, row after row. */
    public val rowMajor: DoubleArray
        get() = doubleArrayOf(row0.x, row0.y, row0.z, row1.x, row1.y, row1.z, row2.x, row2.y, row2.z)

    /** Matrix times matrix. */
    public operator fun times(other: Matrix3): Matrix3 {
        val columns = other.transposed
        return Matrix3(columns * row0, columns * row1, columns * row2)
    }

    /** Matrix times column vector. */
    public operator fun times(vector: Vector3): Vector3 = Vector3(row0 dot vector, row1 dot vector, row2 dot vector)
}
