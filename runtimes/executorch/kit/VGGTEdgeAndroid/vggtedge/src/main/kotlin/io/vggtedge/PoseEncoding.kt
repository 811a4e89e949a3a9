package io.vggtedge

import kotlin.math.PI
import kotlin.math.sqrt

/**
 * The output `pose_enc`: nine numbers per frame, `absT_quaR_FoV`.
 *
 * They are the translation (3), the rotation as a quaternion x, y, z, w (4), and the vertical and the horizontal field
 * of view in radians (2).
 */
public object PoseEncoding {
    /** Numbers per frame. */
    public const val LENGTH: Int = 9

    // A field of view of 0 (the encoding ends in a ReLU) or of 180 degrees has no finite camera.
    private const val NARROWEST = 1e-3
    private const val WIDEST = PI - 1e-3
    private const val SHORTEST_QUATERNION = 1e-12

    /**
     * The cameras of all frames.
     *
     * [values] are nine numbers per frame, frame after frame; [size] is that of the frames as the model sees them.
     * Throws [KitException] for another number of values, NaN or infinity, or a quaternion of length 0.
     */
    @JvmStatic
    public fun cameras(values: FloatArray, size: FrameSize): List<Camera> {
        if (values.isEmpty() || values.size % LENGTH != 0) {
            throw KitException(
                KitException.Kind.WRONG_INPUT,
                "a pose encoding of ${values.size} numbers",
                "pass the whole output pose_enc, $LENGTH numbers per frame",
            )
        }
        return List(values.size / LENGTH) { frame ->
            camera(DoubleArray(LENGTH) { values[frame * LENGTH + it].toDouble() }, size)
        }
    }

    private fun camera(values: DoubleArray, size: FrameSize): Camera {
        if (!values.all { it.isFinite() }) {
            throw KitException(
                KitException.Kind.UNUSABLE_OUTPUT,
                "a pose encoding holds NaN or infinity",
                "run DeviceCheck; if it fails too, export again with more blocks in fp32",
            )
        }
        val rotation = rotation(values[3], values[4], values[5], values[6])
        return Camera(
            Extrinsics(rotation, Vector3(values[0], values[1], values[2])),
            Intrinsics.ofFieldsOfView(clamped(values[7]), clamped(values[8]), size),
        )
    }

    private fun clamped(angle: Double): Double = angle.coerceIn(NARROWEST, WIDEST)

    /** The rotation of a quaternion of any length but 0. */
    private fun rotation(qx: Double, qy: Double, qz: Double, qw: Double): Matrix3 {
        val length = sqrt(qx * qx + qy * qy + qz * qz + qw * qw)
        if (length < SHORTEST_QUATERNION) {
            throw KitException(
                KitException.Kind.UNUSABLE_OUTPUT,
                "a quaternion of length 0 is no rotation",
                "run DeviceCheck; if it fails too, export again with the camera head in fp32",
            )
        }
        val x = qx / length
        val y = qy / length
        val z = qz / length
        val w = qw / length
        return Matrix3(
            Vector3(1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
            Vector3(2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
            Vector3(2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
        )
    }

    /**
     * The encodings with each quaternion on the reference's side: q and -q are one rotation, not drift.
     *
     * Throws [KitException] unless both hold the same whole number of encodings.
     */
    @JvmStatic
    public fun withQuaternionSigns(reference: FloatArray, values: FloatArray): FloatArray {
        if (values.size != reference.size || values.size % LENGTH != 0) {
            throw KitException(
                KitException.Kind.WRONG_INPUT,
                "pose encodings of ${values.size} and ${reference.size} numbers",
                "compare two outputs pose_enc of the same frames",
            )
        }
        val result = values.copyOf()
        for (start in values.indices step LENGTH) {
            val quaternion = start + 3..start + 6
            if (quaternion.sumOf { values[it].toDouble() * reference[it].toDouble() } >= 0) continue
            for (index in quaternion) result[index] = -values[index]
        }
        return result
    }
}
