package io.vggtedge;

import android.content.Context;
import java.io.File;
import java.util.List;
import java.util.concurrent.CompletionException;

/** What an app in Java writes. */
final class JavaCaller {
    private JavaCaller() {}

    static String use(Context context, File folder, List<RgbImage> frames) throws Exception {
        Kit kit = Kit.read(folder);
        try (VGGTModel model = VGGTModel.loadAsync(folder).get()) {
            Prediction prediction = model.predictAsync(frames).get();
            float[] points = prediction.pointCloud();
            model.warmUpAsync().get();
            Prediction latest = model.predictLatestAsync(frames).get();
            float[] values = new float[kit.getInput().getFrames() * 3 * 14 * 28];
            if (latest == null || model.predictAsync(values).get().getDepth() == null) return "no depth";
            model.closeAndJoinAsync().get();
            if (points.length == 0 || model.getFrameCount() != kit.getInput().getFrames()) return "no points";
        }
        CheckResult result = new DeviceCheck(context, folder).runAsync().get();
        boolean isPassed = result.toJson().contains("\"status\": \"passed\"") && result.getPassed();
        return isPassed ? "passed" : result.getFailures();
    }

    static String wrong(File folder) {
        try {
            VGGTModel.loadAsync(folder, -1).join();
            return "nothing was thrown";
        } catch (CompletionException error) {
            return error.getCause() instanceof KitException kitError ? kitError.getKind().name() : error.toString();
        }
    }

    static KitException.Kind refused() {
        try {
            Kit.parse("");
            return null;
        } catch (KitException error) {
            return error.getKind();
        }
    }
}
