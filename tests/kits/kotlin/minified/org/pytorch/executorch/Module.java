package org.pytorch.executorch;

import com.facebook.jni.HybridData;

public class Module {
    private final HybridData data = new HybridData();

    public boolean isAlive() {
        return data.isValid();
    }
}
