package io.vggtedge

import kotlin.math.PI
import kotlin.math.atan2
import kotlin.math.max
import kotlin.math.min
import kotlin.math.sqrt

/**
 * How far apart the cameras of two pose encodings are, over all pairs of frames, as the exporter's report measures it.
 *
 * @property rotationDegrees The largest angle between relative rotations.
 * @property translationDegrees The largest angle between directions of relative translations, at most 90.
 */
public data class PoseErrors(public val rotationDegrees: Double, public val translationDegrees: Double) {
    /** Under the keys of the other kits. */
    internal fun toMap(): Map<String, Double> =
        linkedMapOf("rotation_degrees" to rotationDegrees, "translation_degrees" to translationDegrees)

    /** Measures. */
    public companion object {
        /** Cameras nearer to each other than this share of the longest baseline stand in the same place. */
        private const val STANDING = 1e-6

        /** Throws [KitException] unless both hold the same number of cameras, at least two. */
        @JvmStatic
        public fun of(cameras: List<Extrinsics>, reference: List<Extrinsics>): PoseErrors {
            if (cameras.size != reference.size || cameras.size < 2) {
                throw wrongInput(
                    "relative poses of ${cameras.size} and ${reference.size} cameras",
                    "compare two predictions of the same frames, at least two",
                )
            }
            val ours = relativePoses(cameras)
            val truth = relativePoses(reference)
            val (ourStanding, trueStanding) = listOf(ours, truth).map(::standingBaseline)
            var rotation = 0.0
            var translation = 0.0
            for ((moved, wanted) in ours.zip(truth)) {
                rotation = max(rotation, angle(wanted.rotation, moved.rotation))
                if (length(wanted.translation) <= trueStanding) continue
                val angle = angle(wanted.translation, moved.translation)
                val isStanding = length(moved.translation) <= ourStanding
                translation = max(translation, if (isStanding) 90.0 else min(angle, 180 - angle))
            }
            return PoseErrors(rotation, translation)
        }

        /** The pose of each later camera in the coordinates of each earlier one. */
        private fun relativePoses(cameras: List<Extrinsics>): List<Extrinsics> =
            cameras.indices.flatMap { first ->
                (first + 1 until cameras.size).map { second ->
                    val rotation = cameras[second].rotation * cameras[first].rotation.transposed
                    Extrinsics(rotation, cameras[second].translation - rotation * cameras[first].translation)
                }
            }

        private fun standingBaseline(poses: List<Extrinsics>): Double =
            STANDING * max(poses.maxOf { length(it.translation) }, STANDING)

        private fun length(vector: Vector3): Double = sqrt(vector dot vector)

        /** Exact also near 0 and 180 degrees, where the arc cosine is not. */
        private fun angle(first: Vector3, second: Vector3): Double {
            val cross =
                Vector3(
                    first.y * second.z - first.z * second.y,
                    first.z * second.x - first.x * second.z,
                    first.x * second.y - first.y * second.x,
                )
            return degrees(length(cross), first dot second)
        }

        private fun angle(first: Matrix3, second: Matrix3): Double {
            val (row0, row1, row2) = first.transposed * second
            val axis = Vector3(row2.y - row1.z, row0.z - row2.x, row1.x - row0.y)
            return degrees(length(axis), row0.x + row1.y + row2.z - 1)
        }

        private fun degrees(sine: Double, cosine: Double): Double = atan2(sine, cosine) * 180 / PI
    }
}
