package android.app;

import android.content.Context;

/** One context plays both apps: the one under test and the test's own. */
public class Instrumentation {
    private final Context context;

    public Instrumentation(Context standIn) {
        context = standIn;
    }

    public Context getContext() {
        return context;
    }

    public Context getTargetContext() {
        return context;
    }
}
