package io.vggtedge

import java.util.Locale
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Test

class GeometryTest {
    @Test
    fun posesDecodeAsInPython() {
        for (case in Vectors.cases("poses")) {
            val cameras = PoseEncoding.cameras(case.floats("encoding"), case.size("size"))
            val extrinsics = case.lists("extrinsics")
            assertEquals(extrinsics.size, cameras.size)
            for ((index, camera) in cameras.withIndex()) {
                assertNear(extrinsics[index].doubles(), camera.extrinsics.rowMajor)
                val intrinsics = case.lists("intrinsics")[index]
                assertNear(intrinsics.doubles(), camera.intrinsics.matrix.rowMajor)
                val center = camera.extrinsics.cameraCenter
                val expected = case.lists("centers")[index].doubles()
                assertNear(expected, doubleArrayOf(center.x, center.y, center.z))
            }
        }
    }

    @Test
    fun worldAndCameraAreInverse() {
        val case = Vectors.cases("poses").first()
        val pose = PoseEncoding.cameras(case.floats("encoding"), case.size("size")).first().extrinsics
        val point = Vector3(0.3, -2.0, 5.0)
        val back = pose.toWorld(pose.toCamera(point))
        assertNear(doubleArrayOf(point.x, point.y, point.z), doubleArrayOf(back.x, back.y, back.z))
    }

    @Test
    fun quaternionSignsFollowTheReference() {
        for (case in Vectors.cases("quaternion_signs")) {
            val aligned = PoseEncoding.withQuaternionSigns(case.floats("reference"), case.floats("values"))
            assertArrayEquals(case.floats("aligned"), aligned, 0f)
        }
    }

    @Test
    fun senselessPosesAreRefused() {
        val size = FrameSize(28, 14)
        assertRefused(KitException.Kind.WRONG_INPUT) { PoseEncoding.cameras(FloatArray(0), size) }
        assertRefused(KitException.Kind.WRONG_INPUT) { PoseEncoding.cameras(FloatArray(10), size) }
        assertRefused(KitException.Kind.UNUSABLE_OUTPUT) { PoseEncoding.cameras(FloatArray(9), size) }
        val broken = FloatArray(9) { if (it == 0) Float.NaN else 1f }
        assertRefused(KitException.Kind.UNUSABLE_OUTPUT) { PoseEncoding.cameras(broken, size) }
        assertRefused(KitException.Kind.WRONG_INPUT) { PoseEncoding.withQuaternionSigns(broken, FloatArray(18)) }
    }

    @Test
    fun pointsAreUnprojectedAsInPython() {
        for (case in Vectors.cases("unprojections")) {
            val cameras = PoseEncoding.cameras(case.floats("encoding"), case.size("size"))
            val points = PointCloud.unproject(case.floats("depth"), cameras, case.size("size"), case.centers)
            val expected = case.doubles("points")
            assertNear(expected, DoubleArray(points.size) { points[it].toDouble() }, 1e-6)
        }
    }

    @Test
    fun depthsNeedTheirCameras() {
        val size = FrameSize(2, 2)
        assertRefused(KitException.Kind.WRONG_INPUT) { PointCloud.unproject(FloatArray(4), emptyList(), size) }
        val pose = FloatArray(9) { 1f }
        val cameras = List(8) { PoseEncoding.cameras(pose, size).single() }
        val huge = FrameSize(32768, 32768)
        assertRefused(KitException.Kind.WRONG_INPUT) { PointCloud.unproject(FloatArray(0), cameras, huge) }
    }

    @Test
    fun confidentPixelsAreThoseOfPython() {
        for (case in Vectors.cases("confidences")) {
            val keep = PointCloud.confidentPixels(case.lists("maps").map { it.floats() })
            assertEquals(case.list("keep"), keep.toList())
        }
    }

    @Test
    fun senselessConfidencesAreRefused() {
        assertRefused(KitException.Kind.WRONG_INPUT) { PointCloud.confidentPixels(emptyList()) }
        assertRefused(KitException.Kind.WRONG_INPUT) {
            PointCloud.confidentPixels(listOf(FloatArray(2), FloatArray(3)))
        }
        assertRefused(KitException.Kind.WRONG_INPUT) { PointCloud.confidentPixels(listOf(FloatArray(2)), 1.5) }
        assertRefused(KitException.Kind.UNUSABLE_OUTPUT) {
            PointCloud.confidentPixels(listOf(floatArrayOf(1f, Float.NaN)))
        }
    }

    private val JsonTable.centers get() = PixelCenters.valueOf(text("centers").uppercase(Locale.ROOT))

    @Test
    fun whitePixelsHaveNoPoint() {
        val areas = listOf(FrameArea(1, 0, 2, 2), FrameArea(0, 1, 3, 2))
        val size = FrameSize(3, 2)
        val expected = listOf(0, 1, 0, 0, 1, 0, 0, 0, 0, 1, 1, 1).map { it == 1 }
        assertEquals(expected, PointCloud.shownPixels(areas, size).toList())
        val sides = listOf(1L, 2L, 2L, 3L)
        val points = FloatTensor(sides + 3L, FloatArray(36) { (it / 3).toFloat() })
        val confidence = FloatTensor(sides, FloatArray(12) { if (expected[it]) 1f + it else 99f })
        val prediction = Prediction(mapOf("points" to points, "points_conf" to confidence), 2, size)
        val cloud = prediction.pointCloud(0.6, areas)
        assertEquals(listOf(9f, 10f, 11f), cloud.filterIndexed { index, _ -> index % 3 == 0 })
        val alone = Prediction(mapOf("points" to points), 2, size).pointCloud(1.0, areas)
        assertEquals(listOf(1f, 4f, 9f, 10f, 11f), alone.filterIndexed { index, _ -> index % 3 == 0 })
        assertRefused(KitException.Kind.WRONG_INPUT) { prediction.pointCloud(0.6, areas.take(1)) }
    }

    @Test
    fun framingsTellWhereThePixelsWent() {
        for (case in Vectors.cases("framings")) {
            val framing = Framing(case.size("source"), case.size("target"), case.preprocess)
            val (left, top, right, bottom) = case.list("content").ints()
            assertEquals("${case.preprocess}", FrameArea(left, top, right, bottom), framing.content)
            val (focalX, focalY, centerX, centerY) = case.doubles("before").toList()
            val after = Intrinsics(focalX, focalY, centerX, centerY).framed(framing)
            assertNear(case.doubles("after"), doubleArrayOf(after.focalX, after.focalY, after.centerX, after.centerY))
            val matrix = case.doubles("picture_from_input")
            val place = framing.toPicture(3.5, 7.25)
            assertNear(doubleArrayOf(matrix[0] * 3.5 + matrix[2], matrix[4] * 7.25 + matrix[5]), place)
            assertNear(doubleArrayOf(3.5, 7.25), framing.toInput(place[0], place[1]))
        }
        val strip = FrameSize(1, 3000)
        assertRefused(KitException.Kind.WRONG_INPUT) {
            Framing(strip, FrameSize(28, 14), Preprocess(Preprocess.Mode.CROP))
        }
        assertEquals(21, Framing(strip, FrameSize(28, 14), Preprocess(Preprocess.Mode.PAD)).content.right)
        assertRefused(KitException.Kind.WRONG_INPUT) { Preprocess(Preprocess.Mode.PAD, 0) }
    }

    @Test
    fun intrinsicsFollowTheResize() {
        for (case in Vectors.cases("intrinsics")) {
            val (focalX, focalY, centerX, centerY) = case.doubles("before").toList()
            val after = Intrinsics(focalX, focalY, centerX, centerY).resized(case.size("source"), case.size("target"))
            val actual = doubleArrayOf(after.focalX, after.focalY, after.centerX, after.centerY)
            assertNear(case.doubles("after"), actual)
        }
    }
}
